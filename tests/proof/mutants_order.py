"""Mutations of what makes things durable, and of the order of the protocol's steps."""

from __future__ import annotations

from tests.proof.mutations import Mutation

_ORDER = "tests/proof/test_order.py"
_BY_ORDER = (_ORDER,)
_RECOVERY = "tests/crash/test_recovery.py"
_OPENERS = "tests/crash/test_openers.py"


def skipped(
    name: str, file: str, line: str, *tests: str, before: str = "", after: str = ""
) -> Mutation:
    """``line`` is not done. ``before`` and ``after`` are text around it that tells which one it is."""
    old = f"{before}{line}{after}"
    return Mutation(name, file, old, f"{before}pass{after}", tests or _BY_ORDER)


def exchanged(
    name: str, file: str, one: str, other: str, *tests: str, between: str = "\n        "
) -> Mutation:
    """``other`` is done before ``one``, which it follows."""
    return Mutation(
        name, file, f"{one}{between}{other}", f"{other}{between}{one}", tests or _BY_ORDER
    )


_SYNC_PARENT = "durable.fsync_directory(run.layout.parent)"
_SYNC_WORK = "durable.fsync_directory(work.path)"

_DURABLE = (
    skipped("fsync: does nothing for a descriptor", "durable.py", "os.fsync(descriptor)", before="def fsync_descriptor(descriptor: int) -> None:\n    "),
    skipped("fsync: of a file does nothing", "durable.py", "os.fsync(descriptor)", before="os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)\n    try:\n        "),
    skipped("fsync: of a directory does nothing", "durable.py", "os.fsync(descriptor)", before="os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)\n    try:\n        "),
    skipped("fsync: a new directory's name is not synced", "durable.py", "fsync_directory(path.parent)", before="os.close(descriptor)\n    "),
    skipped("fsync: a written file's content is not synced", "durable.py", "os.fsync(descriptor)", before="_write(descriptor, data)\n            "),
    skipped("fsync: a written file's name is not synced", "durable.py", "fsync_directory(path.parent)", before="is not helped by what did not fit on it\n        raise\n    "),
    skipped("fsync: a copied file's content is not synced", "durable.py", "os.fsync(writer)"),
    skipped("fsync: a copied file's name is not synced", "durable.py", "fsync_directory(target.parent)", before="        raise\n    "),
    skipped("fsync: a moved file's new name is not synced", "durable.py", "fsync_directory(target.parent)", after="\n    if linked"),
    skipped("fsync: a moved file's old name is not synced", "durable.py", "fsync_directory(source.parent)"),
    skipped("fsync: a removed directory's name is not synced", "durable.py", "fsync_directory(path.parent)", before="except FileNotFoundError:\n        return\n    "),
    skipped("fsync: a removed tree's name is not synced", "durable.py", "fsync_directory(path.parent)", before="that somebody put there\n    "),
    exchanged("order: written file renamed before its fsync", "durable.py", "_write(descriptor, data)", "os.fsync(descriptor)", between="\n            "),
    exchanged("order: copied file synced before its metadata", "durable.py", "copy_metadata(source, writer)", "os.fsync(writer)", between="\n            "),
)  # fmt: skip

_ATTEMPT = (
    skipped("fsync: staging copy's content", "attempt.py", "durable.fsync_descriptor(descriptor)"),
    skipped("fsync: staging copy's name", "attempt.py", _SYNC_WORK),
    Mutation(
        "order: staging copy's metadata after its fsync", "attempt.py",
        "durable.copy_metadata(run.primary, descriptor)\n        with beside.running(sync) as synced:\n            yield synced",
        "with beside.running(sync) as synced:\n            yield synced\n        durable.copy_metadata(run.primary, descriptor)",
        _BY_ORDER,
    ),
    Mutation(
        "order: ready before the staging copy is synced", "attempt.py",
        "            durable.fsync_descriptor(descriptor)\n            return FileStat.of(os.fstat(descriptor)), _digest(run, descriptor, stop)",
        "            return FileStat.of(os.fstat(descriptor)), _digest(run, descriptor, stop)",
        _BY_ORDER,
    ),
    skipped("the manifest never becomes ready", "attempt.py", "ready.save(work)", f"{_RECOVERY}::test_nothing_but_a_backup"),
)  # fmt: skip

_SWAP = (
    skipped("fsync: new file's second name before stepping back", "swap.py", _SYNC_WORK, before="by the fsync of the parent.\n        "),
    Mutation(
        "order: after stepping back the old name goes first", "swap.py",
        "durable.fsync_directory(layout.parent)\n        if not new.held()",
        "durable.fsync_directory(work.path)\n        durable.fsync_directory(layout.parent)\n        if not new.held()",
        (f"{_ORDER}::test_stepping_back",),
    ),
    skipped("fsync: old file before it becomes the pre-image", "swap.py", "durable.fsync_descriptor(old.descriptor)"),
    skipped("fsync: the journal's removal before the swap", "swap.py", "durable.fsync_directory(layout.parent)", after="\n        if __debug__"),
    skipped("fsync: pre-image's name before the swap", "swap.py", _SYNC_WORK, after="\n        if not old.held()"),
    skipped("fsync: primary's name after the swap", "swap.py", "durable.fsync_directory(layout.parent)", before="_step_back(run, work, new)\n        "),
    skipped("fsync: staging's name after the swap", "swap.py", _SYNC_WORK, after='\n        if __debug__:\n            run.failpoints.hit("swap.after-fsync")'),
    skipped("fsync: primary's name after stepping back", "swap.py", "durable.fsync_directory(layout.parent)", after="\n        if not new.held()"),
    exchanged(
        "order: directory synced before the pre-image is there", "swap.py",
        'if _in_memory_only(run) or not durable.link(run.primary, work.preimage):\n            _copy_preimage(work, old)\n        if __debug__:\n            run.failpoints.hit("swap.after-preimage")',
        _SYNC_WORK,
    ),
    Mutation(
        "order: swapped before there is a pre-image", "swap.py",
        "if _in_memory_only(run) or not durable.link(run.primary, work.preimage):\n            _copy_preimage(work, old)",
        "durable.rename(work.staging, run.primary)\n        durable.link(run.primary, work.preimage)",
        (f"{_ORDER}::test_conversion",),
    ),
    Mutation(
        "what a failed fsync left in memory is linked", "swap.py", "_in_memory_only(run) or not", "not",
        ("tests/proof/test_flush_failures.py::test_run_again_on_what_only_the_cache_holds",),
    ),
    Mutation(
        "what a failed fsync left in memory shares the disk's blocks", "swap.py", ", share=False)", ")",
        ("tests/proof/test_flush_failures.py::test_run_again_on_what_only_the_cache_holds",),
    ),
    Mutation(
        "order: the lease is asked before the pre-image is made", "swap.py",
        'if not old.held():\n            raise _in_use(\n                run, "somebody opened the database just before the swap; nothing was changed"\n            )',
        "pass",
        ("tests/proof/test_steps.py",),
    ),
    Mutation(
        "the swap copies instead of renaming", "durable.py",
        '"""Atomic on one filesystem (rename(2)); EXDEV is an error, never a copy (so not ``shutil.move``)."""\n    require_no_link(source)\n    require_no_link(target)\n    os.rename(source, target)',
        "import shutil\n\n    shutil.copyfile(source, target)\n    os.unlink(source)",
        (f"{_RECOVERY}::test_without_hard_links_the_preimage_is_a_copy", f"{_ORDER}::test_conversion"),
    ),
    Mutation(
        "a failed fsync after the swap is a failure", "swap.py", 'raise errors.OutcomeUnknown(\n            f"the new', 'raise errors.StorageError(\n            f"the new',
        (f"{_ORDER}::test_an_unconfirmed_swap",),
    ),
)  # fmt: skip

_RECOVER = (
    skipped("fsync: primary's name before discarding", "recovery.py", _SYNC_PARENT, before='the next run clears this up."):\n        '),
    skipped("fsync: primary's name before completing", "recovery.py", _SYNC_PARENT, before="died before its fsync.\n    "),
    skipped("fsync: staging's name before completing", "recovery.py", _SYNC_WORK, after="\n    stray"),
    skipped("fsync: restored file's content", "recovery.py", "durable.fsync_descriptor(held.descriptor)"),
    skipped("fsync: primary's name after restoring", "recovery.py", _SYNC_PARENT, before="with _told_as_restored(run):\n            "),
    skipped("fsync: unreadable file's second name", "recovery.py", "durable.fsync_directory(kept)"),
    skipped("an unreadable file is not kept", "recovery.py", "if not durable.exists(bad) and not durable.link(run.primary, bad):\n            durable.copy_descriptor(unreadable.descriptor, bad)", f"{_ORDER}::test_restored_from_the_preimage"),
    skipped("an unreadable file's journals stay", "recovery.py", "backups.quarantine(run.layout, work, sibling, sibling.name)", f"{_RECOVERY}::test_restored_without_the_bad_files_journal"),
    Mutation(
        "a restored file may replace one that was just made", "recovery.py",
        "linked = durable.link(work.preimage, run.primary)", "linked = False",
        ("tests/proof/test_steps.py",),
    ),
)  # fmt: skip

_BACKUPS = (
    skipped("fsync: a deleted pre-image's name", "backups.py", _SYNC_WORK, before="durable.unlink(work.preimage)\n    "),
    skipped("fsync: a backup's name", "backups.py", "durable.fsync_directory(layout.backups)"),
    skipped("fsync: a backup's former name", "backups.py", "durable.fsync_directory(layout.work)"),
    skipped("fsync: that only the manifest is left", "backups.py", _SYNC_WORK, after="\n    durable.unlink(work.manifest)"),
    Mutation(
        "order: the manifest goes first", "backups.py",
        "        if work.path / name != work.manifest:\n            durable.unlink(work.path / name)",
        "        durable.unlink(work.path / name)", _BY_ORDER,
    ),
    Mutation(
        "order: a backup moves before its manifest says until when", "backups.py",
        "    replace(manifest, retain_until=until).save(work)\n    durable.make_directory(layout.backups)\n    target = WorkDirectory(layout.backups / work.conversion_id)\n    durable.rename(work.path, target.path)\n",
        "    durable.make_directory(layout.backups)\n    target = WorkDirectory(layout.backups / work.conversion_id)\n    durable.rename(work.path, target.path)\n    replace(manifest, retain_until=until).save(target)\n",
        ("tests/proof/test_steps.py",),
    ),
    skipped("a backup's staging copy stays", "backups.py", "durable.unlink(work.staging)  # there still is one where the swap was not ours", "tests/proof/test_steps.py"),
)  # fmt: skip

_RESTORE = (
    skipped("fsync: the empty file in a lost one's place", "restore.py", _SYNC_PARENT),
    skipped("fsync: restored copy's content", "restore.py", "durable.fsync_descriptor(descriptor)"),
    skipped("restored copy's owner and mode", "restore.py", "durable.copy_metadata(run.primary, descriptor)", "tests/store/test_backups.py::test_restore"),
    exchanged("order: restored copy synced before its metadata", "restore.py", "durable.copy_metadata(run.primary, descriptor)", "durable.fsync_descriptor(descriptor)", _ORDER),
)  # fmt: skip

MUTATIONS = (*_DURABLE, *_ATTEMPT, *_SWAP, *_RECOVER, *_BACKUPS, *_RESTORE)
