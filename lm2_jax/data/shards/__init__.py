"""Tokenized corpora: documents as token ids in array_record shards, and batches of them."""
