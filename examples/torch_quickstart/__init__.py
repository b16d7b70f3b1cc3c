"""A first bug in five minutes: a small model in plain torch with two attentions."""
