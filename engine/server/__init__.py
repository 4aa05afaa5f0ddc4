"""HTTP: the OpenAI API over a cluster. Knows no tensors."""
