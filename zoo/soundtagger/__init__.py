"""`audio-tiny`: a sound encoder, trained by naming what is heard."""
