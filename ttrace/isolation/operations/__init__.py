"""Inside a module that is wrong by itself: its operations beside the reference's."""
