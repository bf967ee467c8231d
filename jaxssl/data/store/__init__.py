"""Token stores: what is in their files, and rows cut from them."""
