import itertools

import numpy as np
import pytest

from cartesian_moe_jax.data import Part, WindowSource, evaluation_batches, training_batches
from cartesian_moe_jax.errors import UserError
from tests.packing import numbered_lines, pack_texts

SEQ, BATCH = 16, 8


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """A split whose windows all differ, in several shards; no whole number of batches."""
    packed = pack_texts(tmp_path_factory.mktemp("loader"), {"a.txt": numbered_lines(500)})
    tokens = packed.split("train")
    assert len(WindowSource(tokens, SEQ)) % BATCH
    return tokens


def parts_of(tokens):
    """One source, or what is a mixture already."""
    return tokens if isinstance(tokens, tuple) else (Part("a", 1.0, tokens),)


def take(train, count, **options):
    """Return the next global (or local) batches as one array [count, rows, seq + 1]."""
    batches = training_batches(parts_of(train), SEQ, BATCH, **{"seed": 1} | options)
    taken = np.stack(list(itertools.islice(batches, count)))
    assert batches.position == options.get("position", 0) + count
    batches.close()
    return taken


def test_windows_share_one_token_with_the_next(train):
    source = WindowSource(train, SEQ)
    flat = train.read(0, len(train)).astype(np.int32)
    assert len(source) == (len(train) - 1) // SEQ
    for index in (0, 1, len(source) - 1):
        window = source[index]
        assert window.dtype == np.int32
        np.testing.assert_array_equal(window, flat[index * SEQ : index * SEQ + SEQ + 1])
    with pytest.raises(IndexError):
        source[len(source)]
    assert repr(source) == repr(WindowSource(train, SEQ))
    assert "0x" not in repr(source).lower().replace(train.corpus.content_hash, "")


def test_a_corpus_shorter_than_one_window_is_an_error(tmp_path):
    tokens = pack_texts(tmp_path, {"a.txt": "short\n" * 4}).split("train")
    assert len(WindowSource(tokens, len(tokens) - 1)) == 1
    with pytest.raises(UserError, match=f"has {len(tokens)} tokens.*seq_len \\+ 1 = 65"):
        training_batches(parts_of(tokens), 64, 2, seed=0)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, train):
    """Three sources of different sizes and no two equal windows, 10, 30 and 60 %."""
    texts = {
        "small": numbered_lines(40).replace("line", "some"),
        "large": numbered_lines(900).replace("line", "much"),
    }
    split = {
        name: pack_texts(tmp_path_factory.mktemp(name), {"b.txt": text}).split("train")
        for name, text in texts.items()
    }
    return (
        Part("small", 0.1, split["small"]),
        Part("a", 0.3, train),
        Part("c", 0.6, split["large"]),
    )


def source_of(mixture):
    """Which part each window is of, and its number there."""
    numbers = {}
    for part in mixture:
        windows = WindowSource(part.tokens, SEQ)
        numbers |= {windows[i].tobytes(): (part.name, i) for i in range(len(windows))}
    assert len(numbers) == sum(len(WindowSource(part.tokens, SEQ)) for part in mixture)
    return numbers


def test_a_mixture_has_its_shares_and_every_part_its_own_epochs(mixture):
    numbers = source_of(mixture)
    rows = take(mixture, 500).reshape(-1, SEQ + 1)
    drawn = [numbers[row.tobytes()] for row in rows]
    for part in mixture:
        order = [number for name, number in drawn if name == part.name]
        assert len(order) == pytest.approx(part.weight * len(rows), rel=0.01)
        epoch = len(WindowSource(part.tokens, SEQ))
        assert len(order) > 2 * epoch
        assert sorted(order[:epoch]) == sorted(order[epoch : 2 * epoch]) == list(range(epoch))
        assert order[:epoch] != order[epoch : 2 * epoch]
    # The shares hold in any short run too, not only on the whole.
    for start in range(0, len(drawn) - 100, 97):
        assert 7 <= sum(name == "small" for name, _ in drawn[start : start + 100]) <= 13


@pytest.mark.parametrize("processes", [2, 8])
def test_batches_of_a_mixture_are_the_same_for_any_number_of_processes(mixture, processes):
    # Every part crosses the border of an epoch on the way.
    parts = [take(mixture, 300, process_index=p, process_count=processes) for p in range(processes)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), take(mixture, 300))


@pytest.mark.parametrize("position", [1, 37, 210])
def test_a_mixture_resumes_at_any_position_on_any_number_of_processes(mixture, position):
    whole = take(mixture, position + 5)
    np.testing.assert_array_equal(take(mixture, 5, position=position), whole[position:])
    parts = [
        take(mixture, 5, position=position, process_index=p, process_count=4) for p in range(4)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[position:])
    assert take(mixture, 1, position=10**12).shape == (1, BATCH, SEQ + 1)


def test_a_part_shorter_than_one_window_is_named(mixture, tmp_path):
    short = pack_texts(tmp_path, {"a.txt": "short\n" * 2}).split("train")
    with pytest.raises(UserError, match="fewer than one window"):
        training_batches((*mixture, Part("short", 0.1, short)), SEQ, BATCH, seed=0)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_global_batches_are_the_same_for_any_number_of_processes(train, processes):
    # Far enough to cross the border of an epoch.
    count = 2 * len(WindowSource(train, SEQ)) // BATCH
    parts = [take(train, count, process_index=p, process_count=processes) for p in range(processes)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), take(train, count))


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("position", [0, 1, 7, 38, 39, 200])
def test_resume_at_any_position_equals_no_interruption(train, position, processes):
    place = {"process_index": processes - 1, "process_count": processes}
    whole = take(train, position + 5, **place)
    np.testing.assert_array_equal(take(train, 5, position=position, **place), whole[position:])


def test_a_far_position_is_reached_at_once(train):
    assert take(train, 1, position=10**12).shape == (1, BATCH, SEQ + 1)


def test_every_window_appears_once_per_epoch_in_another_order(train):
    source = WindowSource(train, SEQ)
    index_of = {source[i].tobytes(): i for i in range(len(source))}
    assert len(index_of) == len(source)
    batches = take(train, 3 * len(source) // BATCH)
    order = [index_of[row.tobytes()] for row in batches.reshape(-1, SEQ + 1)]
    epochs = [order[: len(source)], order[len(source) : 2 * len(source)]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(len(source)))
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])
    expected = training_batches(parts_of(train), SEQ, BATCH, seed=1)
    assert expected.epochs_per_batch == {"a": BATCH / len(source)}
    expected.close()


def test_the_seed_decides_the_order(train):
    assert (take(train, 3, seed=1) != take(train, 3, seed=2)).any()
    np.testing.assert_array_equal(take(train, 3, seed=2), take(train, 3, seed=2))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_small_batches_do_not_overflow_the_endless_dataset(train, batch_size):
    batches = training_batches(parts_of(train), SEQ, batch_size, seed=0)
    assert next(batches).shape == (batch_size, SEQ + 1)
    batches.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_count": 3}, r"batch_size=8.*multiple of process_count=3"),
        ({"batch_size": 0}, r"batch_size=0"),
        ({"process_index": 2, "process_count": 2}, r"process_index=2.*process_count=2"),
        ({"seed": -1}, r"seed=-1"),
        ({"seed": 2**32}, r"seed=4294967296"),
        ({"position": -1}, r"position=-1"),
        ({"seq_len": 0}, r"seq_len=0"),
    ],
)
def test_numbers_out_of_range_are_errors(train, options, message):
    with pytest.raises(UserError, match=message):
        training_batches(
            parts_of(train), **{"seq_len": SEQ, "batch_size": BATCH, "seed": 0} | options
        )


# 256 predictions fill two batches of 8 windows of 16; one less and one more do not.
@pytest.mark.parametrize("length", [2, 17, 18, 256, 257, 258, 1000])
@pytest.mark.parametrize("processes", [1, 2, 8])
def test_evaluation_predicts_every_token_but_the_first_once(tmp_path, length, processes):
    # Without line ends the text is cut in the middle; its half and an end-of-text are `length`.
    text = numbered_lines(1000).replace("\n", " ")[: 2 * (length - 1)]
    split = pack_texts(tmp_path, {"a.txt": text}, validation_share=0.5).split("train")
    assert len(split) == length
    parts = [list(evaluation_batches(split, SEQ, BATCH, p, processes)) for p in range(processes)]
    assert len({len(part) for part in parts}) == 1
    steps = [
        tuple(np.concatenate(arrays) for arrays in zip(*step, strict=True))
        for step in zip(*parts, strict=True)
    ]
    assert len(steps) == -(-(length - 1) // (SEQ * BATCH))
    for tokens, mask in steps:
        assert (tokens.dtype, mask.dtype) == (np.int32, np.bool_)
        assert (tokens.shape, mask.shape) == ((BATCH, SEQ + 1), (BATCH, SEQ))
    inputs = np.concatenate([tokens[:, :-1][mask] for tokens, mask in steps])
    targets = np.concatenate([tokens[:, 1:][mask] for tokens, mask in steps])
    flat = split.read(0, length)
    np.testing.assert_array_equal(inputs, flat[:-1])
    np.testing.assert_array_equal(targets, flat[1:])


def test_evaluation_of_nothing_is_an_error(train, tmp_path):
    empty = pack_texts(tmp_path, {"a.txt": "x"}).split("validation")
    with pytest.raises(UserError, match="'validation' has 0 tokens"):
        evaluation_batches(empty, SEQ, BATCH)
    with pytest.raises(UserError, match="multiple of process_count=3"):
        evaluation_batches(train, SEQ, BATCH, 0, 3)


# The first window predicts 16 tokens, each further one 5: 96 + 5 n of them fill batches.
@pytest.mark.parametrize("length", [2, 17, 18, 22, 23, 300])
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("stride", [1, 5, 16])
def test_strided_evaluation_predicts_each_token_once_and_late(tmp_path, length, processes, stride):
    text = numbered_lines(1000).replace("\n", " ")[: 2 * (length - 1)]
    split = pack_texts(tmp_path, {"a.txt": text}, validation_share=0.5).split("train")
    assert len(split) == length
    steps = [
        list(evaluation_batches(split, SEQ, BATCH, p, processes, stride)) for p in range(processes)
    ]
    flat, targets, contexts = split.read(0, length), [], []
    for step in zip(*steps, strict=True):
        tokens, mask = (np.concatenate(arrays) for arrays in zip(*step, strict=True))
        for row, predicted in zip(tokens, mask, strict=True):
            targets += row[1:][predicted].tolist()
            contexts += (np.nonzero(predicted)[0] + 1).tolist()
    np.testing.assert_array_equal(targets, flat[1:])
    assert all(seen >= min(i + 1, SEQ - stride + 1) for i, seen in enumerate(contexts))


@pytest.mark.parametrize("stride", [-1, 17])
def test_a_stride_beyond_the_window_is_an_error(train, stride):
    with pytest.raises(UserError, match=f"stride={stride} must be 1 to seq_len=16"):
        evaluation_batches(train, SEQ, BATCH, stride=stride)
