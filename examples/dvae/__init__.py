"""What `examples/train.py` is made of: the data, the model, the checkpoint, and the picture."""
