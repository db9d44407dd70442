"""Errors that say what is wrong, where, and how to fix it."""

from collections.abc import Iterable, Sequence

from pytest_mergegate.common.plain_text import cut

_MOST = 50
"""Problems of one file that are told."""
_LONGEST_PLACE = 300


class GateError(Exception):
    """A gate that cannot be computed: one clear line instead of a traceback.

    ``what`` is the problem, ``where`` a ``file:line`` or a tensor, ``fix`` the way out.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        # file names, keys and other libraries' words end up in here: cleaned once, for every exit
        self.what = cut(what)
        # of a long place the end, where the file's name and the line are
        far = where is not None and len(where) > _LONGEST_PLACE
        self.where = where and cut(f"…{where[-_LONGEST_PLACE:]}" if far else where)
        self.fix = fix and cut(fix)

    @property
    def line(self) -> int | None:
        """The line that ``where`` names, if it names one."""
        _, _, line = (self.where or "").rpartition(":")
        return int(line) if line.isdecimal() else None

    @property
    def located(self) -> str:
        """What is wrong, and where."""
        return f"{self.where}: {self.what}" if self.where else self.what

    def __str__(self) -> str:
        return f"{self.located} (fix: {self.fix})" if self.fix else self.located


class UsageError(GateError):
    """An option, or a setting of pytest's, that has a value which cannot be used."""


class GateFileError(GateError):
    """A gate file, or the arguments of ``@mergeable``, that cannot be understood."""

    def __init__(self, problems: Sequence[GateError]) -> None:
        more = len(problems) - _MOST
        rest = [GateError(f"there are {more} more problems", fix="correct these first")]
        self.problems = (*problems[:_MOST], *(rest if more > 0 else []))
        super().__init__("; ".join(str(problem) for problem in self.problems))

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class PoolError(GateError):
    """A base, an expert or a file of examples that cannot be read or does not fit the rest.

    ``code`` is the finding under which the report files it, ``expert`` the expert concerned,
    ``discreet`` what to say where ``what`` may hold text of examples or answers, and none of it is
    to be shown.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str = "MG001",
        expert: str | None = None,
        where: str | None = None,
        fix: str | None = None,
        discreet: str | None = None,
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.code = code
        self.expert = expert
        said = self.what if discreet is None else cut(discreet)
        self.discreet = f"{self.where}: {said}" if self.where else said


def first_line(error: Exception) -> str:
    """What another library's exception says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def no_torch() -> GateError:
    """The error of a machine without PyTorch, which only preflight does without."""
    return GateError(
        "PyTorch is not installed",
        fix="pip install torch, best the build for this machine (https://pytorch.org/get-started); "
        "without a GPU: pip install torch --index-url https://download.pytorch.org/whl/cpu",
    )


def did_you_mean(
    given: object, known: Iterable[str], called: str = "known keys", *, cutoff: float = 0.5
) -> str:
    """The known name that was probably meant, else all of them: the fix for an unknown one."""
    import difflib  # few sessions of pytest need it

    names = list(known)
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else f"{called}: {', '.join(names)}"
