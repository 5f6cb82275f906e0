"""Files of safetensors: `read` has the one parser of their header, `write` makes and checks them."""
