"""What a run computes, as compiled steps: networks, losses, optimizer; no data, no tokenizer."""
