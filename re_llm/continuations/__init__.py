"""`re-llm continue`: the LLM continues every transcript; its answers are what the speech model learns to say.

RE-LLM section II-B step 1, BLSP-Emo section 3. Greedy, 48 new tokens; `early_stop` is true when the end was not
reached, and then no end token is trained.

`rows.py` continues a batch of rows, `cleaning.py` says which outputs are refused, `plan.py` cuts a manifest into chunks
and shards, `identity.py` keeps what a file was made with, `run.py` writes it, `merge.py` joins shards.
"""

from re_llm.continuations.cleaning import refusal
from re_llm.continuations.merge import merge_shards
from re_llm.continuations.named import NamedLlm
from re_llm.continuations.plan import Shard
from re_llm.continuations.rows import continue_rows
from re_llm.continuations.run import continue_manifest

__all__ = [
    "NamedLlm",
    "Shard",
    "continue_manifest",
    "continue_rows",
    "merge_shards",
    "refusal",
]
