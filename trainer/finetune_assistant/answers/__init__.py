"""From a file of prompts to a file of answers, which goes on after any end; answers of several models side by side."""
