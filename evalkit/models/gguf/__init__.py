"""GGUF, llama.cpp's file of a whole model: weights in blocks, hyperparameters and tokenizer."""
