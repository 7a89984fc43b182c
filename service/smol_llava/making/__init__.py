"""How the weights of smol-llava were trained."""
