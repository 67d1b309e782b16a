"""Weights, config and tokenizer from and to folders of the transformers library."""
