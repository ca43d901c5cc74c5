"""Servers of objects, each started as its maker says, on loopback: for the storage tests, and for the table of docs/stores.md."""
