"""DebugLM (arXiv 2603.17884): a language model that says which training set an answer comes from."""
