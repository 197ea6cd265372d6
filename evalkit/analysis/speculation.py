"""What an acceptance rate promises of speculative decoding (Leviathan et al. 2023).

Acceptances are taken as independent and equally likely. Pure functions.
"""

from __future__ import annotations


def expected_tokens_per_pass(acceptance: float, draft_tokens: int) -> float:
    """Tokens a pass of the target yields: (1 - a^(g+1)) / (1 - a), equation 1 of the paper.

    `acceptance` is the chance a from 0 to 1 that a drafted token is kept, `draft_tokens` g ≥ 0.
    """
    return sum(acceptance**power for power in range(draft_tokens + 1))


def expected_speedup(acceptance: float, draft_tokens: int, cost: float) -> float:
    """Speed over plain decoding, theorem 3.8: tokens per pass over g·c + 1.

    `cost` c is the time of one step of the draft in steps of the target; a pass over g + 1 tokens
    is taken to cost the target what one step does, as it does where reading weights decides.
    """
    return expected_tokens_per_pass(acceptance, draft_tokens) / (draft_tokens * cost + 1)
