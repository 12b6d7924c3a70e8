"""`python -m re_llm` is `re-llm`."""

from re_llm.cli import main

main()
