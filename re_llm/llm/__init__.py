"""Chat LLMs that read text: prompts, completions, in this process or behind a server."""
