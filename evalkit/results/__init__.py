"""Reading what is stored: raw values, flips, worst tokens. Imports no torch."""
