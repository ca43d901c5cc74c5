"""Judging answers: a model as the judge, people as the judges, and how far they agree."""
