"""An LLM as judge of replies: the prompts of BLSP-Emo, their answers, agreement with other judges and with people."""
