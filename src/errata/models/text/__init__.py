"""From text to tokens and back: encoding with positions, chat templates, segments, ids that a model takes."""
