"""What `export` makes a model folder of: its files, its card, and the network as ONNX."""
