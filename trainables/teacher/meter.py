"""The meter that every teacher call passes: a teacher around a teacher that writes down what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from trainables.teacher.ledger import QueryLedger, Reservation
from trainables.teacher.protocol import Teacher


class MeteredTeacher:
    """Asks the teacher inside, within the ledger's budget; its answers are those of the teacher inside, untouched."""

    def __init__(self, teacher: Teacher, ledger: QueryLedger) -> None:
        self.teacher, self.ledger = teacher, ledger

    @property
    def name(self) -> str:
        return self.teacher.name

    @property
    def embedding_dim(self) -> int:
        return self.teacher.embedding_dim

    @property
    def logit_scale(self) -> float:
        return self.teacher.logit_scale

    def embed_images(self, images_N3HW: Tensor, *, image_ids: Sequence[int] = (), views: Sequence[int] = ()) -> Tensor:
        """L2-normalised embeddings [N, D]; N image queries. Arguments and errors are those of `image_query`."""
        return self.image_query(images_N3HW, image_ids=image_ids, views=views)()

    def image_query(
        self, images_N3HW: Tensor, *, image_ids: Sequence[int] = (), views: Sequence[int] = ()
    ) -> Callable[[], Tensor]:
        """Reserve N image queries now; what is returned asks them, from any thread, and gives the embeddings [N, D].

        `image_ids` names the images, one each, so that unique ones can be counted; `views`, beside them, which view of
        its image each is (leave it out in `live`, where every view is new).

        Raises:
            BudgetReached: N more would cross the budget; nothing was asked.
        """
        named, viewed = len(image_ids), len(views)
        if named not in (0, len(images_N3HW)) or viewed not in (0, named):
            raise ValueError("image_ids name every image, and views every image id")
        reservation = Reservation(
            images=len(images_N3HW),
            bytes_sent=images_N3HW.numel() * images_N3HW.element_size(),
            image_ids=tuple(map(int, image_ids)),
            views=tuple((int(image), int(view)) for image, view in zip(image_ids, views, strict=False)),
        )
        self.ledger.reserve(reservation)

        def ask() -> Tensor:
            embeddings_ND = self.teacher.embed_images(images_N3HW)
            self.ledger.settle(reservation)
            return embeddings_ND

        return ask

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """L2-normalised embeddings [len(prompts), D]; one text query each.

        Raises:
            BudgetReached: they would cross the budget; nothing was asked.
        """
        reservation = Reservation(texts=len(prompts), bytes_sent=sum(len(prompt.encode()) for prompt in prompts))
        self.ledger.reserve(reservation)
        embeddings_CD = self.teacher.embed_texts(prompts)
        self.ledger.settle(reservation)
        return embeddings_CD

    def image_encoder(self) -> tuple[nn.Module, int]:
        """The teacher's own image encoder: a copy of a white box, no query."""
        return self.teacher.image_encoder()
