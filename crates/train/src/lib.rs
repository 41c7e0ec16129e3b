//! How the shipped model is made: traces, tokenizer, training, evaluation, export.
