"""Action chunks as short sequences of tokens: cosine transform, rounding, byte-pair encoding (FAST, arXiv 2501.09747)."""

import importlib
import json
import math
from typing import Any

import numpy as np
import torch as th
from torch import nn

END = 0
_FIRST_CHARACTER = 0x4E00  # the library merges characters: any block of letters without spaces will do
_MOST_TOKENS = 30_000  # as many as the characters of that block and its successors suffice for
_REMEMBERED = 100_000


class ActionTokenizer(nn.Module):
    """
    Chunks of actions in [-1, 1] to tokens and back.

    Each action dimension's h numbers are transformed by an orthonormal discrete cosine transform over time, multiplied by
    ``scale`` and rounded. The integers, lowest frequency of all dimensions first, are then compressed by byte-pair encoding,
    whose merges are learned from demonstrations. Token 0 ends a sequence, the next ones are the single integers, the others
    the merges in the order learned.

    No integer that a chunk in [-1, 1] can have lies outside the alphabet, so that every chunk has a code. What the merges are
    is kept in buffers of a fixed shape, which travel with the state dict; decoding is a look-up on the tokens' device, and
    only :meth:`fit` and :meth:`encode` need the library ``tokenizers``.

    :param chunk_size: h, steps of a chunk
    :param step_dim: d, numbers of a step
    :param vocab_size: largest number of tokens, at least the alphabet's and the end's: 2 floor(scale sqrt(h) + 1/2) + 2
    :param scale: coefficients are rounded to multiples of its inverse
    :param max_tokens: longest sequence; None: h d + 1, which always suffices
    :raises ValueError: sizes below 1, or a vocabulary that does not hold the alphabet
    """

    merges: th.Tensor
    expansion: th.Tensor
    lengths: th.Tensor
    n_used: th.Tensor
    basis: th.Tensor

    def __init__(
        self, chunk_size: int, step_dim: int, vocab_size: int = 512, scale: float = 10.0, max_tokens: int | None = None
    ):
        super().__init__()
        numbers = chunk_size * step_dim
        if chunk_size < 1 or step_dim < 1:
            raise ValueError(f"chunks need at least one step of one number, found {chunk_size} steps of {step_dim}")
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be positive, found {scale}")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, found {max_tokens}")
        self.largest = math.floor(scale * math.sqrt(chunk_size) + 0.5)  # |coefficient| <= sqrt(h) where |action| <= 1
        least = 2 * self.largest + 2
        if not least <= vocab_size <= _MOST_TOKENS:
            raise ValueError(
                f"vocab_size must lie in [{least}, {_MOST_TOKENS}] for scale={scale} and chunk_size={chunk_size}, "
                f"found {vocab_size}"
            )
        self.chunk_size, self.step_dim, self.numbers = chunk_size, step_dim, numbers
        self.vocab_size, self.scale = vocab_size, scale
        self.max_tokens = numbers + 1 if max_tokens is None else max_tokens
        self.register_buffer("merges", th.full((vocab_size, 2), -1, dtype=th.int32))
        self.register_buffer("expansion", th.zeros(vocab_size, numbers, dtype=th.int16))  # the integers a token stands for
        self.register_buffer("lengths", th.zeros(vocab_size, dtype=th.int64))  # how many
        self.register_buffer("n_used", th.zeros((), dtype=th.int64))  # tokens in use, 0 before fitting
        self.register_buffer("basis", cosine_basis(chunk_size).float(), persistent=False)
        self._forget()

    def _forget(self) -> None:
        self._encoder: Any = None  # the library's model of the merges
        self._encoded_merges: th.Tensor | None = None  # those it was made of
        self._known: dict[str, np.ndarray] = {}  # demonstrations come again in every epoch

    def __getstate__(self) -> dict[str, Any]:
        # Copies make the library's model anew.
        return {**self.__dict__, "_encoder": None, "_encoded_merges": None, "_known": {}}

    @property
    def fitted(self) -> bool:
        """Whether there are tokens."""
        return bool(self.n_used > 0)

    @property
    def error_bound(self) -> float:
        """Largest difference between a number of a chunk and of its decoded code: sqrt(h) / (2 scale), by the norm."""
        return 0.5 * math.sqrt(self.chunk_size) / self.scale

    def fit(self, windows: th.Tensor | np.ndarray) -> None:
        """
        Learn the merges.

        :param windows: (n, h, d) or (n, h d) in [-1, 1], time-major
        :raises ImportError: the library is missing
        :raises ValueError: chunks of another size, numbers that are not finite or out of range, or codes of the windows
            that are longer than ``max_tokens``
        """
        library = import_tokenizers()
        texts = self._texts(windows)
        if not texts:
            raise ValueError("tokens are made of demonstrations, found no window")
        alphabet = [chr(_FIRST_CHARACTER + i) for i in range(2 * self.largest + 1)]
        learner = library.Tokenizer(library.models.BPE())
        learner.train_from_iterator(
            texts,
            library.trainers.BpeTrainer(
                vocab_size=self.vocab_size - 1, min_frequency=2, show_progress=False, initial_alphabet=alphabet
            ),
        )
        names = {character: 1 + i for i, character in enumerate(alphabet)}
        merges: list[tuple[int, int]] = []
        for left, right in json.loads(learner.to_str())["model"]["merges"]:
            # Two merges may arrive at the same integers, which then are one token.
            if len(merges) == self.vocab_size or (left + right not in names and len(names) + 1 == self.vocab_size):
                break
            names.setdefault(left + right, 1 + len(names))
            merges.append((names[left], names[right]))
        self._set(merges, names)
        longest = max(len(code) for code in self._codes(texts)) + 1
        if longest > self.max_tokens:
            self.n_used.zero_()
            raise ValueError(
                f"max_tokens={self.max_tokens} is too short for the demonstrations, whose chunks have up to {longest} tokens"
            )

    def _set(self, merges: list[tuple[int, int]], names: dict[str, int]) -> None:
        for buffer, empty in ((self.merges, -1), (self.expansion, 0), (self.lengths, 0)):
            buffer.fill_(empty)
        if merges:
            self.merges[: len(merges)] = th.tensor(merges, dtype=th.int32)
        for text, token in names.items():
            integers = [ord(character) - _FIRST_CHARACTER - self.largest for character in text]
            self.expansion[token, : len(text)] = th.tensor(integers, dtype=th.int16)
            self.lengths[token] = len(text)
        self.n_used.fill_(1 + len(names))

    def encode(self, windows: th.Tensor | np.ndarray) -> th.Tensor:
        """
        Tokens of chunks, an end token, and end tokens up to the longest sequence.

        Where ``max_tokens`` was given and a chunk that is unlike the demonstrations needs more, the rest of its code, and with
        it the highest frequencies, is left out.

        :param windows: (n, h, d) or (n, h d) in [-1, 1]
        :return: (n, L) long, on the windows' device where they are a tensor
        :raises ImportError: the library is missing
        :raises ValueError: not fitted, chunks of another size, numbers that are not finite or out of range
        """
        self.check_fitted()
        texts = self._texts(windows)
        codes = self._codes(texts)
        tokens = np.full((len(codes), self.max_tokens), END, dtype=np.int64)
        for row, code in zip(tokens, codes, strict=True):
            kept = code[: self.max_tokens]
            row[: len(kept)] = kept
        return th.as_tensor(tokens, device=windows.device if isinstance(windows, th.Tensor) else "cpu")

    def decode(self, tokens: th.Tensor) -> th.Tensor:
        """
        The chunk that a sequence stands for; every sequence stands for one.

        What follows the first end token is ignored. A sequence of fewer integers than a chunk has coefficients leaves the
        others, which are the highest frequencies, at zero; surplus integers are cut; the result is clamped to [-1, 1].

        :param tokens: (n, L) in [0, vocab_size)
        :return: (n, h, d) in [-1, 1]
        :raises ValueError: not fitted
        """
        self.check_fitted()
        alive = (tokens != END).cumprod(dim=1)
        ends = (self.lengths[tokens] * alive).cumsum(dim=1)  # integers up to and including each token
        place = th.arange(self.numbers, device=tokens.device).expand(len(tokens), -1).contiguous()
        source = th.searchsorted(ends, place, right=True)
        missing = source == tokens.shape[1]
        source = source.clamp_max(tokens.shape[1] - 1)
        token = tokens.gather(1, source)
        within = (place - (ends - self.lengths[tokens] * alive).gather(1, source)).clamp(0, self.numbers - 1)
        integers = self.expansion[token, within].masked_fill(missing, 0)
        coefficients = integers.to(self.basis.dtype).unflatten(1, (self.chunk_size, self.step_dim)) / self.scale
        return th.einsum("kt,nkd->ntd", self.basis, coefficients).clamp(-1.0, 1.0)

    def check_fitted(self) -> None:
        """
        :raises ValueError: there are no tokens yet
        """
        if not self.fitted:
            raise ValueError(
                "there are no action tokens yet, they are made of demonstrations: clone demonstrations (demonstrations= and "
                "bc_steps=), start from a cloned policy (pretrained_policy=), or call policy.fit_actions(windows)"
            )

    def _texts(self, windows: th.Tensor | np.ndarray) -> list[str]:
        """The rounded coefficients of each chunk as a word of one letter per number."""
        rows = windows.detach().cpu().numpy() if isinstance(windows, th.Tensor) else np.asarray(windows)
        shape = (self.chunk_size, self.step_dim)
        if rows.ndim < 2 or rows.shape[1:] not in (shape, (self.numbers,)):
            raise ValueError(
                f"action tokens are for chunks of {shape[0]} steps of {shape[1]} numbers, found an array of shape {rows.shape}"
            )
        rows = rows.reshape(-1, *shape).astype(np.float64)
        if not (np.abs(rows) <= 1.0 + 1e-4).all():
            worst = rows.flat[np.argmax(~(np.abs(rows) <= 1.0 + 1e-4))]
            raise ValueError(f"actions that become tokens must be finite and lie in [-1, 1], found {worst}")
        coefficients = np.einsum("kt,ntd->nkd", cosine_basis(self.chunk_size).numpy(), rows)
        integers = np.rint(self.scale * coefficients).clip(-self.largest, self.largest).reshape(-1, self.numbers)
        characters = np.ascontiguousarray(integers + (self.largest + _FIRST_CHARACTER)).astype(np.uint32)
        return characters.view(f"<U{self.numbers}")[:, 0].tolist()

    def _codes(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of each word, without an end."""
        encoder = self._library_encoder()
        new = list({text: None for text in texts if text not in self._known})
        if len(self._known) + len(new) > _REMEMBERED:
            self._known, new = {}, list(dict.fromkeys(texts))
        for text, code in zip(new, encoder.encode_batch(new), strict=True):
            self._known[text] = np.array(code.ids, dtype=np.int64)
        return [self._known[text] for text in texts]

    def _library_encoder(self) -> Any:
        """The library's encoder for the merges in the buffer, which may have been loaded since the last call."""
        merges = self.merges.cpu()
        if self._encoder is None or self._encoded_merges is None or not th.equal(merges, self._encoded_merges):
            library = import_tokenizers()
            self._forget()
            expansion, lengths = (self.expansion + (_FIRST_CHARACTER + self.largest)).tolist(), self.lengths.tolist()
            names = ["".join(map(chr, expansion[i][: lengths[i]])) for i in range(int(self.n_used))]
            pairs = [(names[left], names[right]) for left, right in merges.tolist() if left >= 0]
            vocabulary = {name: i for i, name in enumerate(names) if i != END}
            self._encoder = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=pairs))
            self._encoded_merges = merges.clone()
        return self._encoder


def cosine_basis(n: int) -> th.Tensor:
    """
    The orthonormal discrete cosine transform of the second kind.

    :param n: numbers that are transformed
    :return: (n, n) in float64, one frequency per row, lowest first; its transpose is its inverse
    """
    k, t = th.arange(n, dtype=th.float64)[:, None], th.arange(n, dtype=th.float64)
    basis = th.cos(math.pi / n * (t + 0.5) * k) * math.sqrt(2.0 / n)
    basis[0] /= math.sqrt(2.0)
    return basis


def import_tokenizers() -> Any:
    """
    :return: the library ``tokenizers``
    :raises ImportError: it is missing
    """
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ImportError(
            'action tokens need the package tokenizers: run `pip install "ogpo_sb3[fast]"`.', name="tokenizers"
        ) from error
