"""Store -> split file: whole tracks for training, evaluation and test.

The training tracks' statistics are added up here, so that nothing later can look at the others.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline import credit, manifest, presets, raw_tree, store
from pipeline.errors import UsageError, UserError, few
from pipeline.manifest import Split, Statistics
from pipeline.store import Store, Track

SHARE = 0.2  # of gridded frames, that is proposed for evaluation
SEASONS = re.compile(r"(\d{4})-(\d{4})")
TOO_FEW = (
    "fewer than 2 tracks, and only whole ones are set aside; convert into more of them "
    "(gridded fields: --track-by)"
)


def split(
    path: Path,
    out: Path,
    *,
    eval_ids: Sequence[str] = (),
    test_ids: Sequence[str] = (),
    eval_fraction: float | None = None,
    eval_last: float | None = None,
    seed: int = 0,
    preset: presets.Name | None = None,
    dry_run: bool = False,
) -> Split:
    """Divide the store at `path` and write the split to `out`.

    eval_ids and test_ids: ids, comma lists, seasons `2015-2018`, `@file`. Instead of eval_ids
    eval_fraction: that share of the remaining tracks, drawn with `seed`; or eval_last: the latest
    of them, with about that share of their frames. preset: a published way, which also names the
    test tracks, and leaves the others open (ss-l2: by itself the last season) or not (neurips23).
    dry_run: nothing is written.
    Raises UserError for an unknown id (with its neighbours), an id in two parts, and a part that
    would be empty.
    """
    asked = sum((bool(eval_ids), eval_fraction is not None, eval_last is not None))
    if asked > 1:
        raise UsageError("--eval-ids, --eval-fraction and --eval-last: give one of them")
    if preset and test_ids:
        raise UsageError(f"--preset {preset} names the test tracks; leave --test-ids out")
    opened = raw_tree.opened(path)
    known = presets.parts(preset, opened) if preset else None
    if known and known.eval is not None and asked:
        raise UsageError(f"--preset {preset} names the eval tracks; leave --eval-... out")
    test = known.test if known else chosen(opened.ids, test_ids)
    if known and known.eval is not None:
        evaluated, how = known.eval, ""
    elif known and not asked:
        evaluated = presets.last_season(id for id in opened.ids if id not in set(test))
        how = f"eval: the season before them, {evaluated[0][:4]}"
    elif eval_last is not None:
        rest = [opened.track(id) for id in opened.ids if id not in set(test)]
        evaluated = latest(rest, eval_last)
        how = f"eval: the latest tracks with {eval_last:g} of the frames"
    elif eval_fraction is not None:
        evaluated = drawn([id for id in opened.ids if id not in set(test)], eval_fraction, seed)
        how = f"eval: {eval_fraction:g} of the tracks, seed {seed}"
    else:
        evaluated = chosen(opened.ids, eval_ids)
        how = f"eval: {','.join(eval_ids)}"
    if known:
        how = f"{known.how}; {how}" if how else known.how
    elif test:
        how += f"; test: {','.join(test_ids)}"
    if not evaluated:
        raise UsageError(
            "no tracks to evaluate on: give --eval-ids or --eval-fraction, or --eval-last"
        )
    if both := sorted(set(evaluated) & set(test)):
        raise UserError(
            f"track {', '.join(both)} is asked for both as eval and as test; leave it out of one"
        )
    elsewhere = {*evaluated, *test, *(known.left_out if known else ())}
    train = [id for id in opened.ids if id not in elsewhere]
    if not train:
        raise UserError(
            f"{path}: no tracks left to train on; all {len(opened.ids)} are eval or test; "
            "set fewer aside"
        )
    parts = {"train": train, "eval": evaluated, "test": test}
    made = Split(
        store=path.name,
        **credit.rights(opened.attrs),
        manifest_hash=opened.manifest_hash,
        selected_by=how,
        train=train,
        eval=evaluated,
        test=test,
        frames=sound_frames(opened, parts),
        triplets=triplets(opened, parts),
        statistics=added([opened.track(id) for id in train]),
    )
    if not dry_run:
        manifest.write_split(out, made)
    return made


def chosen(have: Sequence[str], asked: Iterable[str]) -> list[str]:
    """The ids that a user's words mean, in the store's order. Raises UserError."""
    wanted: dict[str, None] = {}
    unknown = []
    for word in words(asked):
        if span := SEASONS.fullmatch(word):
            first, last = span.groups()
            found = [id for id in have if first <= id[:4] <= last]
            if first > last:
                raise UserError(
                    f"{word}: the first season must not be after the last; write {last}-{first}"
                )
        else:
            found = [id for id in have if id == word]
        if not found:
            unknown.append(word)
        wanted.update(dict.fromkeys(found))
    if unknown:
        raise UserError("; ".join(not_found(word, have) for word in unknown))
    return [id for id in have if id in wanted]


def words(asked: Iterable[str]) -> Iterable[str]:
    """Commas, white space and @files (one or more words per line, # comments) taken apart."""
    for item in asked:
        if item.startswith("@"):
            file = Path(item[1:])
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not text"
                raise UserError(
                    f"{file}: cannot be read as a list of ids ({reason.lower()}); expected a "
                    "text file of ids such as 202107 and seasons such as 2015-2018"
                ) from None
            found = [w for line in lines for w in line.split("#")[0].replace(",", " ").split()]
            if not found:
                raise UserError(f"{file}: holds no ids; write ids such as 202107 into it")
            yield from found
        else:
            yield from item.replace(",", " ").split()


def not_found(word: str, have: Sequence[str]) -> str:
    if SEASONS.fullmatch(word):
        seasons = sorted({id[:4] for id in have})
        return f"no track of seasons {word}; the store has seasons {few(seasons)}"
    if Path(word).is_file():
        return f"no track {word!r}; for a file of ids write @{word}"
    near = difflib.get_close_matches(word, have, n=3, cutoff=0.5)
    return f"no track {word!r}; " + (
        f"near it: {', '.join(near)}" if near else f"the store has {few(have)}"
    )


def drawn(have: Sequence[str], fraction: float, seed: int) -> list[str]:
    """A random share of the tracks: at least one, never all."""
    if not 0 < fraction < 1:
        raise UsageError(f"--eval-fraction {fraction:g}: expected between 0 and 1, as 0.1")
    if len(have) < 2:
        raise UserError(TOO_FEW)
    count = min(max(1, round(fraction * len(have))), len(have) - 1)
    return sorted(random.Random(seed).sample(sorted(have), count))


def latest(tracks: Sequence[Track], share: float) -> list[str]:
    """The ids of the last tracks in time, as many as come nearest to that share of the frames.

    At least one, never all. Raises UsageError and UserError.
    """
    if not 0 < share < 1:
        raise UsageError(f"--eval-last {share:g}: expected between 0 and 1, as 0.1")
    if len(tracks) < 2:
        raise UserError(TOO_FEW)
    ordered = sorted(tracks, key=lambda track: (track.times[-1], track.id), reverse=True)
    held = np.cumsum([len(track.times) for track in ordered])
    count = int(np.abs(held[:-1] - share * held[-1]).argmin()) + 1
    return sorted(track.id for track in ordered[:count])


def proposed(
    opened: Store, count: Callable[[Track], int], judged: Callable[[Track], int]
) -> list[str]:
    """Options that leave something to train on and something to judge; [] where none do.

    count: what a training can use of a track, as its triplets; judged: what it can be judged on,
    which may be its single frames. Of typhoons the latest seasons with a tenth of what can be used,
    or of one season the latest typhoons; of all else the latest tracks with a fifth of the frames.
    Where one track alone has any, the one of the others that has most to be judged on.
    """
    tracks = sorted(opened, key=lambda track: (track.times[-1], track.id))
    have = {track.id: count(track) for track in tracks}
    fit = [track for track in tracks if have[track.id]]
    if len(fit) < 2:
        rest = {track.id: judged(track) for track in tracks if not have[track.id]}
        most = max(rest, key=lambda id: rest[id], default="")
        return ["--eval-ids", most] if fit and rest.get(most) else []
    if all(presets.season(track.id) for track in tracks):
        seasons = sorted({track.id[:4] for track in fit})
        of_each = {s: sum(have[track.id] for track in fit if track.id[:4] == s) for s in seasons}
        if len(seasons) > 1:
            newest = set_aside(of_each)
            return ["--eval-ids", f"{newest[0]}-{newest[-1]}"]
    else:
        held = sum(have[id] for id in latest(tracks, SHARE))
        if 0 < held < sum(have.values()):
            return ["--eval-last", f"{SHARE:g}"]
    return ["--eval-ids", ",".join(set_aside({track.id: have[track.id] for track in fit}))]


def set_aside(have: dict[str, int]) -> list[str]:
    """The last of two or more, which all have some, with a tenth of the whole or more; never all.

    Where that would be two thirds of it, instead the one that has least.
    """
    whole, names = sum(have.values()), list(have)
    first = len(names) - 1
    while first > 1 and 10 * sum(have[name] for name in names[first:]) < whole:
        first -= 1
    if 3 * sum(have[name] for name in names[first:]) > 2 * whole:
        return [min(names, key=lambda name: have[name])]
    return names[first:]


def sound_frames(opened: Store, parts: dict[str, list[str]]) -> dict[str, int]:
    """How many frames without a flag each part has."""
    return {
        part: sum(int((opened.track(id).flag == 0).sum()) for id in ids)
        for part, ids in parts.items()
    }


def triplets(opened: Store, parts: dict[str, list[str]]) -> dict[str, int]:
    """How many triplets each part has."""
    number, _ = opened.triplets()
    count = np.bincount(number, minlength=len(opened.ids))
    of = dict(zip(opened.ids, count.tolist(), strict=True))
    return {part: sum(of[id] for id in ids) for part, ids in parts.items()}


def added(tracks: Sequence[Track]) -> Statistics:
    """Mean, standard deviation and range of all the tracks' usable pixels, per channel."""
    table = np.stack([np.stack(list(track.statistics.values())) for track in tracks])  # (n, 5, C)
    count, total, squares = table[:, 0].sum(0), table[:, 1].sum(0), table[:, 2].sum(0)
    if (count == 0).any():
        lacking = any((track.flag == store.TOO_MANY_MISSING).any() for track in tracks)
        raise UserError(
            f"the training tracks {few([t.id for t in tracks])} hold no usable frame; "
            "set others aside" + (", or convert with a larger --max-missing" if lacking else "")
        )
    mean = total / count
    return Statistics(
        count=[int(n) for n in count],
        mean=mean.tolist(),
        std=np.sqrt(np.maximum(squares / count - np.square(mean), 0)).tolist(),
        min=np.nanmin(table[:, 3], axis=0).tolist(),
        max=np.nanmax(table[:, 4], axis=0).tolist(),
    )
