"""One model behind an OpenAI-compatible HTTP API and a page for the browser."""
