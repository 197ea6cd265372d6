"""`evalkit search`: the best mix of formats under a budget, and how it does on held-out text."""
