"""`evalkit answers`: what variants say to the same prompts."""
