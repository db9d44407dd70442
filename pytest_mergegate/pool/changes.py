"""What an expert does to one parameter of its base, as its files give it.

Two adapters' factors are never compared directly: many pairs (B, A) have the same product.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Factors:
    """τ = scale · B A, or its transpose; under DoRA each row of W0 + τ is brought to a length."""

    parameter: str
    key_a: str
    key_b: str
    shape_a: tuple[int, ...]
    """[rank, inputs]."""
    shape_b: tuple[int, ...]
    """[outputs, rank]."""
    scale: float
    """α/r, or α/√r under rsLoRA."""
    transposed: bool = False
    """The weight is stored as [inputs, outputs]: an embedding, or GPT-2's Conv1D."""
    magnitude_key: str | None = None
    """DoRA's lengths, [outputs]."""
    base_key: str | None = None
    """A copy of the base's weight that the adapter carries and that takes its place."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of τ."""
        outputs, inputs = self.shape_b[0], self.shape_a[1]
        return (inputs, outputs) if self.transposed else (outputs, inputs)

    @property
    def keys(self) -> tuple[str, ...]:
        """The tensors of the adapter behind this change."""
        return tuple(filter(None, (self.key_a, self.key_b, self.magnitude_key, self.base_key)))


@dataclass(frozen=True, kw_only=True)
class FactorBlock:
    """scale · B A in some rows of one expert's matrix, or its transpose, where the whole stack is
    stored as [experts, inputs, outputs]."""

    expert: int
    """Its place in the stack."""
    row: int
    """The first output that it changes."""
    key_a: str
    key_b: str
    place: int | None
    """Which of the blocks of one tensor it is: of A [experts · rank, inputs] the rows behind each
    other, of B [outputs, rank · experts] every so-manieth column; None for whole tensors."""
    scale: float


@dataclass(frozen=True, kw_only=True)
class ExpertFactors:
    """Factors of the experts of a mixture, whose matrices lie in one parameter."""

    parameter: str
    shape: tuple[int, ...]
    """[experts, outputs, inputs], or [experts, inputs, outputs]."""
    transposed: bool
    blocks: tuple[FactorBlock, ...]
    """No two change the same numbers."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The tensors of the adapter behind this change."""
        return tuple(dict.fromkeys(k for b in self.blocks for k in (b.key_a, b.key_b)))


@dataclass(frozen=True, kw_only=True)
class _OfOneTensor:
    parameter: str
    key: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The tensors of the expert behind this change."""
        return (self.key,)


@dataclass(frozen=True, kw_only=True)
class Replacement(_OfOneTensor):
    """The parameter itself after training: modules_to_save, trained biases, full checkpoints."""

    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Rows(_OfOneTensor):
    """Some rows of an embedding after training (PEFT's trainable tokens)."""

    rows: tuple[int, ...]
    width: int


@dataclass(frozen=True, kw_only=True)
class Offset(_OfOneTensor):
    """τ = scale · tensor: the bias that comes with B under ``lora_bias``."""

    shape: tuple[int, ...]
    scale: float


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A change that only a library can work out: PEFT that of IA3, LoHa, LoKr, VeRA, ...;
    transformers that of a checkpoint whose tensors it renames."""

    parameter: str
    keys: tuple[str, ...]
    """The tensors of the adapter behind this change; none for a checkpoint's."""


Change = Factors | ExpertFactors | Replacement | Rows | Offset | Computed
