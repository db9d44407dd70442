"""The exception for a number that does not exist."""


class Undefined(ValueError):
    """A number that is undefined by convention (THEORY sections 1-7).

    Raised in place of a NaN, which would slip through every comparison, and of a zero, which
    would read as a result.

    Attributes:
        reason: A snake_case word for reports, such as ``equidistant``.
    """

    def __init__(self, reason: str, message: str) -> None:
        # Both go to the base class, so that the exception survives pickling between workers.
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message
