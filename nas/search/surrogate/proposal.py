"""One proposal: candidates judged by what the trials say of them, and against trials that wait to go on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from nas.search.surrogate.axes import Params, Rows, Space
from nas.search.surrogate.candidates import RANDOM, Candidates
from nas.search.surrogate.knowledge import Knowledge
from nas.search.surrogate.lessons import Lesson
from nas.search.surrogate.posterior import STARTUP, Array, Posterior

CHILDREN, ROUNDS, NEIGHBOURS, BEST = 500, 2, 150, 20


class Proposal:
    def __init__(
        self,
        knowledge: Knowledge,
        signs: list[int],
        space: Space,
        lessons: Sequence[Lesson],
        draw: np.random.Generator,
        waiting: Collection[int] = (),
    ):
        self.posterior = Posterior(knowledge, signs, space, lessons, draw, waiting)
        self.pool, self.space, self.draw = self.posterior.pool, space, draw

    def best(self) -> Params:
        """Of the first six the most different, then what is expected to add most."""
        if self.posterior.judges.sum() < STARTUP:
            found = self.pool.feasible(lambda: self.space.random(RANDOM, self.draw))
            return self.space.params(found.rows[self._most_different(found.effective)])
        self.posterior.fit()
        candidates, scores = self.searched()
        return self.space.params(candidates.rows[int(np.argmax(scores))])

    def searched(self) -> tuple[Candidates, Array]:
        """Candidates, the later ones near to the best of those before, and their scores."""
        parents = self.pool.rows_of(self.posterior.front_rows)
        candidates = self.pool.feasible(
            lambda: np.concatenate([self.space.random(RANDOM, self.draw), self.pool.children(parents, CHILDREN)])
        )
        scores = self.posterior.scores(candidates)
        for _ in range(ROUNDS):
            best = candidates.rows[np.argsort(-scores, kind="stable")[:BEST]]
            more = self.pool.judged(self.pool.mutated(best[self.draw.integers(len(best), size=NEIGHBOURS)]))
            candidates, scores = candidates.concatenated(more), np.concatenate([scores, self.posterior.scores(more)])
        return candidates, scores

    def _most_different(self, effective: Rows) -> int:
        """Which of the rows differs in most parameters from the trial that is most like it."""
        if not len(self.posterior.effective):
            return 0
        return int(np.argmax((effective[:, None] != self.posterior.effective).mean(axis=2).min(axis=1)))
