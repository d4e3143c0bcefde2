"""Drawing of cartoon faces: action units -> face controls -> shapes -> pixels. Knows nothing of data sets."""
