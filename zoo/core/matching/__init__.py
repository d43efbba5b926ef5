"""Rules matched with the steps of an agent, word by word: what the backbone `matcher` is made of."""
