"""Opening the experience log: read the journal, verify every record, put aside what is damaged.

Given the log's folder; gives the records that are good, what the journal says happened, and a list of damage. Unless
`read_only`, torn tails (never acknowledged) are cut, and damaged bytes are kept in files beside and replaced by
fillers, so that the log goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.rollout.experience.journal import Entry, Journal, JournalScan, scan
from raylign.rollout.experience.segments import (
    HEADER,
    Place,
    has_header,
    quarantine,
    salvage_rows,
    segment_path,
    segments_in,
    why_damaged,
    write_filler,
)
from raylign.rollout.experience.types import ExperienceDamage

JOURNAL = "journal.log"


@dataclass
class Record:
    """One append."""

    place: Place
    offsets: Sequence[int]
    ordinals: list[int]
    failed: list[int] = field(default_factory=list)
    """Offsets of groups without completions."""
    is_lost: bool = False


@dataclass
class Recovered:
    """What lies in a log's folder."""

    records: list[Record]
    """By first offset; lost ones too, for their ordinals."""
    events: list[Entry]
    """All other journal entries, in order."""
    damage: list[ExperienceDamage]
    """Found now; `offsets` are all of the record's."""
    num_torn_bytes: int
    num_unknown_lines: int
    """Of the journal: damaged now or before."""
    journal_bytes: int
    last_segment: int
    end: int
    """Where the next record goes in the last segment; 0 if there is none."""


def recover(folder: Path, read_only: bool = False) -> Recovered:
    """Read, verify and, unless `read_only`, repair."""
    journal_path = folder / JOURNAL
    found = scan(journal_path)
    records = _records(found.entries)
    num_torn_bytes = found.num_torn_bytes
    journal = None if read_only else Journal(journal_path, found.num_bytes)
    damage: list[ExperienceDamage] = []
    try:
        damage += _journal_damage(journal_path, found, journal)
        is_journal_whole = not found.damaged and (bool(found.entries) or not segments_in(folder))
        if not is_journal_whole:
            for record in _salvaged(folder, records):
                damage.append(_quarantine_record(folder, record, "its journal line is damaged", records, journal))
                records.append(record)
        for record in records:
            reason = None if record.is_lost else why_damaged(folder, record.place)
            if reason is not None:
                record.is_lost = True
                damage.append(_quarantine_record(folder, record, reason, records, journal))
        records.sort(key=lambda record: list(record.offsets[:1]))
        last_segment = max((record.place.segment for record in records), default=0)
        ends = [r.place.start + r.place.length for r in records if r.place.segment == last_segment]
        end = max(ends, default=0)
        damage += _header_damage(folder, sorted({record.place.segment for record in records}), repair=not read_only)
        num_torn_bytes += _torn_bytes(folder, last_segment, end, unlink=not read_only)
        num_bytes = found.num_bytes if journal is None else journal.num_bytes
    finally:
        if journal is not None:
            journal.close()
    num_unknown = found.num_blank + sum(length > 1 for _, _, length in found.damaged)
    events = [entry for entry in found.entries if entry["kind"] not in ("append", "lost")]
    return Recovered(records, events, damage, num_torn_bytes, num_unknown, num_bytes, last_segment, end)


def _records(entries: list[Entry]) -> list[Record]:
    """Of the journal's append lines; those said lost before stay lost."""
    records: dict[tuple[int, int], Record] = {}
    for entry in entries:
        if entry["kind"] not in ("append", "lost"):
            continue
        key = entry["segment"], entry["start"]
        if entry["kind"] == "append":
            offsets = list(range(entry["offset"], entry["offset"] + len(entry["ordinals"])))
            place = Place(entry["segment"], entry["start"], entry["length"], entry["checksum"])
            records[key] = Record(place, offsets, entry["ordinals"], entry["failed"])
        elif key in records:
            records[key].is_lost = True
        else:
            place = Place(entry["segment"], entry["start"], entry["length"], "")
            records[key] = Record(place, entry["offsets"], entry["ordinals"], is_lost=True)
    return list(records.values())


def _journal_damage(path: Path, found: JournalScan, journal: Journal | None) -> Iterator[ExperienceDamage]:
    for number, start, length in found.damaged:
        kept_as = ""
        if journal is not None:
            kept_as = quarantine(path, start, length)
            journal.blank(start, length)
        reason = "its checksum does not hold" if length > 1 else "its end is damaged, the rest is whole"
        yield ExperienceDamage(str(path), number, start, length, (), kept_as, reason)


def _salvaged(folder: Path, records: list[Record]) -> Iterator[Record]:
    """What lies in segments where no journal line says so."""
    for segment in segments_in(folder):
        places = sorted(
            (record.place.start, record.place.start + record.place.length)
            for record in records
            if record.place.segment == segment
        )
        size = segment_path(folder, segment).stat().st_size
        starts = [len(HEADER), *(end for _, end in places)]
        ends = [*(start for start, _ in places), size]
        for start, end in zip(starts, ends, strict=True):
            for first, length, offsets, ordinals in salvage_rows(folder, segment, start, end):
                yield Record(Place(segment, first, length, ""), offsets, ordinals, is_lost=True)
                start = first + length
            if end - start > 0:
                yield Record(Place(segment, start, end - start, ""), [], [], is_lost=True)


def _quarantine_record(
    folder: Path, record: Record, reason: str, records: list[Record], journal: Journal | None
) -> ExperienceDamage:
    place = record.place
    path = segment_path(folder, place.segment)
    number = sum(r.place.segment == place.segment and r.place.start < place.start for r in records)
    kept_as = ""
    if not record.offsets:
        reason += " and which prompts lay there cannot be told"
    if journal is not None:
        kept_as = quarantine(path, place.start, place.length)
        write_filler(folder, place.segment, place.start, place.length)
        entry: dict[str, Any] = {"segment": place.segment, "start": place.start, "length": place.length}
        journal.append(
            {"kind": "lost", **entry, "offsets": list(record.offsets), "ordinals": record.ordinals, "kept_as": kept_as}
        )
    return ExperienceDamage(str(path), number, place.start, place.length, tuple(record.offsets), kept_as, reason)


def _header_damage(folder: Path, segments: list[int], repair: bool) -> Iterator[ExperienceDamage]:
    for segment in segments:
        path = segment_path(folder, segment)
        if path.exists() and not has_header(path):
            kept_as = ""
            if repair:
                kept_as = quarantine(path, 0, len(HEADER))
                write_filler(folder, segment, 0, len(HEADER))
            reason = "the schema at its beginning is damaged; it was written again" if repair else "schema damaged"
            yield ExperienceDamage(str(path), 0, 0, len(HEADER), (), kept_as, reason)


def _torn_bytes(folder: Path, last_segment: int, end: int, unlink: bool) -> int:
    """Bytes that no journal line tells of. Those behind `end` are cut when the segment is opened for writing."""
    num_bytes = 0
    for segment in segments_in(folder):
        path = segment_path(folder, segment)
        if segment > last_segment or (segment == last_segment and not end):
            num_bytes += max(0, path.stat().st_size - len(HEADER))
            if unlink:
                path.unlink()
        elif segment == last_segment:
            num_bytes += max(0, path.stat().st_size - end)
    return num_bytes
