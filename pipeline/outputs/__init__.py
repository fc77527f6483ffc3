"""What `infer` writes: the formats, each written frame by frame, and what is kept to go on."""
