"""Any OpenAI-compatible endpoint as something to ask: at a pace, within a budget, and never the same twice."""
