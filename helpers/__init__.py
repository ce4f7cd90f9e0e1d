"""Sprout's finished pieces, one module per idea; each is built in a notebook and promoted here.

Data flows down this list, and imports run the same way:
tokenizer, corpus, batches, embeddings, attention, pretrained, gpt, sampling, training, chat, scores, plots.
"""
