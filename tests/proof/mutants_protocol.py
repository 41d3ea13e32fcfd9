"""Mutations of the protocol's checks: leases, locks, stats, digests, proofs, situations, refusals."""

from __future__ import annotations

from tests.proof.mutants_order import skipped
from tests.proof.mutations import Mutation

_RECOVERY = "tests/crash/test_recovery.py"
_OPENERS = "tests/crash/test_openers.py"
_FINDINGS = "tests/crash/test_findings.py"
_RETENTION = "tests/store/test_retention.py"
_BACKUPS = "tests/store/test_backups.py"
_FILES = "tests/store/test_refusals_files.py"
_PLANTED = "tests/store/test_planted.py"
_BUSY = "tests/store/test_refusals_openers.py"
_CONTENT = "tests/store/test_refusals_content.py"
_MARKERS = "tests/store/test_refusals_markers.py"
_RESTORATION = "tests/crash/test_restoration.py"
_ORDER = "tests/proof/test_order.py"
_CHECKS = "tests/proof/test_checks.py"


def never(name: str, file: str, condition: str, *tests: str) -> Mutation:
    """``condition`` (what follows ``if``) is taken for false."""
    return Mutation(name, file, f"if {condition}:", f"if False and ({condition}):", tests)


_LEASES = (
    Mutation("lease: never asked", "lease.py", "return fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) == fcntl.F_WRLCK", "return True", (f"{_OPENERS}::test_blocked_in_open_over_the_swap",)),
    Mutation("lease: never taken", "lease.py", "    return True\n\n\ndef _open_error", "    return False\n\n\ndef _open_error", (f"{_OPENERS}::test_blocked_in_open_over_the_swap",)),
    skipped("lease: not set", "lease.py", "patiently(lambda: fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK))", f"{_BUSY}::test_any_descriptor_of_another_process"),
    skipped("lease: with the signal that kills", "lease.py", "fcntl.fcntl(descriptor, fcntl.F_SETSIG, _HARMLESS_SIGNAL)", f"{_OPENERS}::test_blocked_in_open_over_the_swap"),
    Mutation("lease: a read lease", "lease.py", "fcntl.F_SETLEASE, fcntl.F_WRLCK", "fcntl.F_SETLEASE, fcntl.F_RDLCK", (f"{_BUSY}::test_any_descriptor_of_another_process",)),
    Mutation("lease: one's own descriptors do not count", "lease.py", "if is_open_here(path):", "if False:", (f"{_BUSY}::test_our_own_locks_are_not_dropped", f"{_BUSY}::test_unchecked_still_minds_this_process")),
    Mutation("lease: none is no trouble", "lease.py", "        if unchecked:\n            return False", "        if True:\n            return False", (f"{_BUSY}::test_leases_unsupported",)),
    Mutation("lease: not asked right after the rename, nor after its fsync", "swap.py", '        if not old.held():\n            _step_back(run, work, new)\n        durable.fsync_directory(layout.parent)\n        durable.fsync_directory(work.path)\n        if __debug__:\n            run.failpoints.hit("swap.after-fsync")\n        if not old.held():\n            _step_back(run, work, new)\n', "        durable.fsync_directory(layout.parent)\n        durable.fsync_directory(work.path)\n", (f"{_OPENERS}::test_an_opener_at_every_step", f"{_ORDER}::test_stepping_back")),
    Mutation("lease: dropped before the rename", "swap.py", "        durable.rename(work.staging, run.primary)", "        old.release()\n        durable.rename(work.staging, run.primary)", (f"{_OPENERS}::test_blocked_in_open_over_the_swap",)),
    Mutation("lease: nobody steps back", "swap.py", "durable.rename(work.preimage, run.primary)", "pass", (f"{_OPENERS}::test_blocked_in_open_over_the_swap",)),
    never("lease: the new file's is not asked after stepping back", "swap.py", "not new.held()", f"{_OPENERS}::test_one_waits_for_the_old_file_and_one_for_the_new"),
    never("lease: a pre-image goes without one", "backups.py", "not held.held()", f"{_CHECKS}::test_a_lease_that_was_broken"),
    Mutation("lease: recovery deletes a pre-image that is open", "recovery.py", 'operation="clean up", unchecked=run.openers_unchecked', 'operation="clean up", unchecked=True', (f"{_BUSY}::test_leases_unsupported", f"{_CHECKS}::test_recovery_without_leases")),
    Mutation("lease: pruning takes none", "retained.py", "proof = preimages.prove_readable(layout, work)\n", "proof = preimages.prove_readable(layout, work)\n            if durable.unlink(work.preimage) is None:\n                continue\n", (f"{_RETENTION}::test_a_backup_that_is_in_use",)),
    never("lease: a proof by digest without one", "backups.py", "not os.path.samestat(os.lstat(layout.primary), held.stat()) or not held.held()", f"{_CHECKS}::test_a_lease_that_was_broken"),
    never("lease: an unreadable file that is open is replaced", "recovery.py", "not alone", f"{_CHECKS}::test_somebody_opens_the_unreadable_file"),
)  # fmt: skip

_LOCKS = (
    skipped("lock: never taken", "lock.py", "patiently(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB))", f"{_BUSY}::test_second_conversion_of_another_process"),
    Mutation("lock: shared", "lock.py", "fcntl.LOCK_EX", "fcntl.LOCK_SH", (f"{_BUSY}::test_second_conversion_of_another_process", f"{_BUSY}::test_second_conversion_of_this_process", f"{_CHECKS}::test_two_at_once")),
    skipped("lock: anybody's state directory", "lock.py", "require_ours(layout)", f"{_FILES}::test_planted_symbolic_link", after="\n        _give_to_owner"),
    never("lock: a state directory that others may write", "lock.py", "found.st_uid not in trusted or found.st_mode & 0o022", f"{_FILES}::test_planted_directory_that_others_may_write"),
    never("lock: a state directory on another filesystem", "lock.py", "found.st_dev != os.stat(layout.parent).st_dev", f"{_FILES}::test_state_directory_on_another_file_system"),
    never("lock: something else than a file", "lock.py", "not stat.S_ISREG(found.st_mode) or found.st_nlink > 1", f"{_FILES}::test_planted_lock", f"{_PLANTED}::test_the_lock_is_a_second_name"),
    skipped("lock: kept by a copy of its descriptor", "lock.py", "fcntl.flock(descriptor, fcntl.LOCK_UN)", f"{_CHECKS}::test_a_copy_of_the_locks_descriptor"),
    Mutation("lock: a second name", "lock.py", " or found.st_nlink > 1", "", (f"{_PLANTED}::test_the_lock_is_a_second_name",)),
    skipped("planted: journals are not looked at", "sqlitefile.py", "require_plain_files(path)", f"{_PLANTED}::test_a_log_that_is_a_second_name", after="\n    connection = "),
    skipped("planted: the source's journals are not looked at before it is attached", "sqlitefile.py", "require_plain_files(path)", "tests/proof/test_hostile.py::test_what_the_long_form_found", after="\n    connection.execute"),
    never("planted: a directory that became a link", "durable.py", "not stat.S_ISDIR(os.lstat(inner).st_mode)", f"{_PLANTED}::test_a_directory_becomes_a_link"),
    never("planted: the copy's second name", "attempt.py", "os.fstat(descriptor).st_nlink != 1", f"{_PLANTED}::test_the_copy_becomes_a_second_name"),
    never("planted: what is no file is read", "durable.py", "not stat.S_ISREG(kind)", f"{_PLANTED}::test_advice_from_a_fifo"),
    never("manifest: of another conversion", "manifest.py", "parsed.conversion_id != work.conversion_id", f"{_PLANTED}::test_a_manifest_of_another_conversion"),
    never("recovery: the copy of a database that is gone", "recovery.py", "durable.exists(work.staging) and not holds_a_database(run, work)", f"{_PLANTED}::test_the_database_is_gone_and_only_the_copy_is_left"),
    skipped("writers are not locked out", "attempt.py", 'guard.execute("BEGIN IMMEDIATE")', f"{_CHECKS}::test_writers_wait"),
    never("stat: the source's is not compared under the lock", "attempt.py", "FileStat.of(os.lstat(run.primary)) != manifest.source", f"{_CHECKS}::test_written_to_as_the_lock_is_taken"),
    never("stat: the source's is not compared before the swap", "swap.py", "FileStat.of(old.stat()) != manifest.source or not _leads_to(run.primary, old)", f"{_CHECKS}::test_written_to_before_the_swap"),
    never("stat: the staging copy's is not compared before the swap", "swap.py", "FileStat.of(new.stat()) != manifest.staging", f"{_CHECKS}::test_the_staging_copy_changes"),
    Mutation("stat: the staging copy's is not compared when noted", "attempt.py", "if FileStat.of(held.stat()) == synced[0]:", "if True:", (f"{_CHECKS}::test_the_staging_copy_changes",)),
    skipped("siblings: not looked for when settled", "sqlitefile.py", 'require_no_siblings(layout, operation="settle")', f"{_CHECKS}::test_a_connection_keeps_the_log"),
    never("stat: what lies under the staging copy's name is not looked at", "swap.py", "not _leads_to(work.staging, new)", f"{_CHECKS}::test_the_staging_copy_is_replaced"),
    skipped("siblings: not looked for before the swap", "swap.py", "sqlitefile.require_no_siblings(run.layout, operation=_OPERATION)", f"{_CHECKS}::test_siblings"),
    skipped("siblings: not looked for beside the staging copy", "swap.py", "sqlitefile.require_no_siblings(Layout.of(work.staging), operation=_OPERATION)", f"{_CHECKS}::test_siblings"),
    skipped("siblings: the write-ahead log is not written back", "sqlitefile.py", 'busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()', f"{_CHECKS}::test_a_reader_keeps_the_log"),
)  # fmt: skip

_PROOFS = (
    Mutation("digest: a constant", "durable.py", 'return f"sha256:{hasher.hexdigest()}"', "return f\"sha256:{'0' * 64}\"", (f"{_BACKUPS}::test_a_backup_that_is_not_sound_is_not_restored",)),
    Mutation("digest: of the first megabyte only", "durable.py", "hasher.update(view[:count])\n        offset += count", "hasher.update(view[:count])\n        break", (f"{_CHECKS}::test_a_digest_is_of_every_byte",)),
    Mutation("proof: the primary's digest is not compared", "backups.py", "if durable.digest(held.descriptor) != expected:", "if False:", (f"{_RECOVERY}::test_backup_beside_a_damaged_primary",)),
    never("proof: stray writes are not looked for", "backups.py", "not as_noted and durable.digest(held.descriptor) != manifest.source_digest", f"{_RECOVERY}::test_stray_writes_into_the_old_file_are_not_thrown_away"),
    never("proof: the swapped file need not be the verified one", "backups.py", "verified is None or FileStat.of(held.stat()) != verified", f"{_CHECKS}::test_the_new_file_is_written_to_after_the_rename"),
    never("proof: what lies at the path need not be the new file", "backups.py", "not os.path.samestat(os.lstat(layout.primary), held.stat())", f"{_CHECKS}::test_the_new_file_is_replaced_after_the_rename"),
    never("proof: pruning beside a database without a marker", "backups.py", "sqlitefile.marker_of(connection, layout.primary) is None", f"{_RETENTION}::test_no_backup_goes_while_the_database_is_not_well"),
    never("proof: pruning beside a damaged database", "backups.py", 'found != "ok"', f"{_RETENTION}::test_no_backup_goes_while_the_database_is_not_well"),
    Mutation("proof: deleting beside a database that was not checked", "backups.py", "            _check(run, marker.format)\n", "", (f"{_BACKUPS}::test_not_while_the_database_is_not_well",)),
    Mutation("proof: deleting beside an emptied database", "backups.py", "return _check(run, candidate) > 0", "return _check(run, candidate) >= 0", (f"{_BACKUPS}::test_not_while_the_database_is_not_well",)),
    never("proof: pinned backups are deleted", "retained.py", "manifest.pinned", f"{_BACKUPS}::test_a_pinned_backup_is_unpinned_first"),
    never("proof: backups are pruned before their time", "retained.py", "remaining > 0", f"{_RETENTION}::test_pruning"),
    Mutation("proof: pinned backups are pruned", "retained.py", "manifest is None or manifest.pinned or manifest.retain_until is None", "manifest is None or manifest.retain_until is None", (f"{_CHECKS}::test_pinned_with_a_time",)),
    Mutation("proof: of another conversion", "backups.py", "if proof.conversion_id != work.conversion_id or manifest.conversion_id != work.conversion_id:", "if False:", (f"{_CHECKS}::test_a_proof_of_another_conversion",)),
    never("proof: a lease on another file", "backups.py", "not os.path.samestat(os.lstat(work.preimage), held.stat())", f"{_CHECKS}::test_a_proof_of_another_conversion"),
    never("a work directory with a pre-image is cleared", "backups.py", "work.preimage.name in names", f"{_CHECKS}::test_a_preimage_is_never_cleared"),
)  # fmt: skip

_SITUATIONS = (
    Mutation("recovery: trusts that the new file exists", "recovery.py", "        if proof is not None:\n            recovery = _record(", '        if proof is None:\n            proof = backups.PrimaryProof(work.conversion_id, "it exists")\n        if proof is not None:\n            recovery = _record(', (f"{_RECOVERY}::test_backup_beside_a_damaged_primary",)),
    Mutation("recovery: a changed primary is not checked", "recovery.py", "            registry.get(manifest.target_format.engine).check(\n                run, run.primary, manifest.target_format, tolerate_forbidden=True\n            )", "            pass", (f"{_RECOVERY}::test_a_changed_value_does_not_pass_for_completed",)),
    Mutation("recovery: a pre-image is restored unseen", "recovery.py", "if durable.digest(held.descriptor) != manifest.source_digest:", "if False:", (f"{_RECOVERY}::test_nothing_but_a_damaged_backup",)),
    Mutation("recovery: a foreign file is taken for the old one", "situations.py", "    return Situation.FOREIGN\n\n\ndef _examine_restored", "    return Situation.UNSWAPPED\n\n\ndef _examine_restored", (f"{_RECOVERY}::test_a_primary_that_somebody_replaced_stays",)),
    Mutation("recovery: another conversion's marker will do", "situations.py", "marker is not None and marker.conversion_id == work.conversion_id", "marker is not None", (f"{_CHECKS}::test_a_database_of_another_conversion",)),
    Mutation("recovery: a pre-image without a manifest is cleared away", "situations.py", "        if has_preimage:\n            raise preimage_without_manifest", "        if False:\n            raise preimage_without_manifest", (f"{_RECOVERY}::test_a_preimage_without_a_manifest_is_never_deleted",)),
    Mutation("recovery: a damaged primary is replaced", "situations.py", "        raise errors.PrimaryUnsound(", "        raise _Unreadable from error\n        raise errors.PrimaryUnsound(", (f"{_FINDINGS}::test_a_schema_that_ours_cannot_parse_is_not_replaced",)),
    Mutation("recovery: errors are taken for absence", "durable.py", "except (FileNotFoundError, NotADirectoryError):", "except OSError:", (f"{_FINDINGS}::test_an_error_is_not_taken_for_absence",)),
    Mutation("recovery: a manifest of another version will do", "manifest.py", "if version not in (VERSION, RESTORATION_VERSION):", "if False:", (f"{_RECOVERY}::test_a_manifest_that_cannot_be_understood", "tests/unit/test_manifest.py")),
    Mutation("recovery: comes after the marker is read", "conversion.py", "            recoveries = _recovered(run)\n            if preflight", "            recoveries = ()\n            if preflight", (f"{_RECOVERY}::test_a_leaked_staging_copy_is_removed",)),
    Mutation("recovery: only in the first directory", "recovery.py", "    for work in pending:\n", "    for work in pending[:0]:\n", (f"{_RECOVERY}::test_crash_between_old_kept_and_new_in_place",)),
    Mutation("restoration: told by its inode alone", "situations.py", "        if digest == manifest.staging_digest:\n            return swapped\n", "", (f"{_RESTORATION}::test_a_volume_that_was_copied", f"{_RESTORATION}::test_without_hard_links")),
    Mutation("restoration: the copy's digest is not compared", "restore.py", "if digest != wanted.manifest.source_digest:", "if False:", (f"{_BACKUPS}::test_a_backup_that_is_not_sound_is_not_restored",)),
    Mutation("restoration: what was there is not pinned", "restore.py", "pinned=True,", "pinned=False,", (f"{_BACKUPS}::test_restore",)),
    Mutation("restoration: the staging copy is a link", "restore.py", "durable.copy_descriptor(backup.descriptor, work.staging, copied)", "durable.link(wanted.work.preimage, work.staging)", (f"{_BACKUPS}::test_restore",)),
)  # fmt: skip

_REFUSALS = (
    never("refusal: a symbolic link", "preflight.py", "stat.S_ISLNK(found.st_mode)", f"{_FILES}::test_symbolic_link", f"{_FILES}::test_dangling_symbolic_link"),
    never("refusal: no regular file", "preflight.py", "not stat.S_ISREG(found.st_mode)", f"{_FILES}::test_not_a_regular_file"),
    never("refusal: more than one link", "preflight.py", "found.st_nlink > 1", f"{_FILES}::test_extra_hard_link"),
    Mutation("refusal: a mount point", "preflight.py", "            os.path.ismount(path)\n            or found.st_dev != os.stat(layout.parent).st_dev\n            or _is_mounted(path)\n", "            False\n", (f"{_FILES}::test_mount_point",)),
    never("refusal: too little space", "preflight.py", "available < needed", f"{_FILES}::test_not_enough_space"),
    never("refusal: too few inodes", "preflight.py", "found.f_files and found.f_favail < _INODES_NEEDED", f"{_FILES}::test_not_enough_inodes"),
    skipped("refusal: another owner", "preflight.py", "_require_owner(path, found)", f"{_FILES}::test_wrong_owner_with_everything_writable", before="    "),
    Mutation("refusal: openers are not asked for", "preflight.py", "lease.take(layout.primary, operation=_OPERATION, unchecked=unchecked).release()", "pass", (f"{_BUSY}::test_idle_connection_of_another_process", f"{_CHECKS}::test_a_plan_asks_for_openers")),
    Mutation("refusal: a foreign super-journal", "sqlitefile.py", "if os.path.dirname(name) != os.path.realpath(layout.parent):", "if False:", (f"{_CONTENT}::test_super_journal_elsewhere",)),
    Mutation("refusal: a newer SQLite's file", "sqlitefile.py", "not set(data[18:20]) <= set(_KNOWN_FILE_VERSIONS)\n        or ", "False\n        and ", (f"{_CONTENT}::test_written_by_a_newer_sqlite",)),
    Mutation("refusal: a newer marker", "formats.py", "if version > MARKER_VERSION:", "if False:", (f"{_MARKERS}::test_newer_marker",)),
    Mutation("refusal: a torn marker is none", "sqlitefile.py", "    return parse_marker(statement, path=os.fspath(path))", "    try:\n        return parse_marker(statement, path=os.fspath(path))\n    except errors.UnreadableMarker:\n        return None", (f"{_MARKERS}::test_torn_marker",)),
    Mutation("refusal: a marker that the rows contradict", "engines/sqlitedict/fit.py", "        found = first_misfit(connection, table, format)\n        if found is not None:\n            raise", "        found = first_misfit(connection, table, format)\n        if False:\n            raise", (f"{_MARKERS}::test_a_new_table_of_an_unaware_application",)),
    skipped("refusal: records in a table that is declared otherwise", "engines/sqlitedict/survey.py", "fit.refuse_lookalikes(connection, source, target, run.primary)", f"{_CONTENT}::test_records_in_a_table_that_is_declared_otherwise", f"{_CONTENT}::test_a_declaration_with_a_bit_that_was_flipped", before="    "),
    Mutation("refusal: rows that fit nothing declared", "conversion.py", "    if not fitting:\n", "    if not fitting and candidates:\n        return candidates[0]\n    if not fitting:\n", (f"{_MARKERS}::test_rows_that_fit_no_declared_format",)),
    Mutation("refusal: rows that fit several formats", "conversion.py", "if len(fitting) == 1:", "if fitting:", (f"{_MARKERS}::test_rows_that_fit_several_declared_formats",)),
    Mutation("an error leaves the staging copy", "ending.py", "            recovery.discard(run, work, found)\n", "            pass\n", ("tests/store/test_conversions_runs.py::test_a_wrong_copy",)),
    Mutation("a swap that may have happened is discarded", "ending.py", "if isinstance(error, errors.NeedsAttention):\n        return\n", "if False:\n        return\n", (f"{_CHECKS}::test_attention_discards_nothing",)),
)  # fmt: skip

_TOLD = "tests/crash/test_error_findings.py"
_WHAT_IS_TOLD = (
    Mutation("told: a swap that is not taken back fails like anything else", "swap.py", '    except (OSError, MemoryError) as error:\n        raise errors.OutcomeUnknown(\n            "somebody', '    except ZeroDivisionError as error:\n        raise errors.OutcomeUnknown(\n            "somebody', (f"{_TOLD}::test_a_swap_that_cannot_be_taken_back",)),
    Mutation("told: an opener after the swap is in the way of it", "ending.py", "errors.Refused, errors.InUse)", "errors.Refused)", (f"{_TOLD}::test_the_old_file_is_opened_once_the_swap_is_done",)),
    Mutation("told: a restoration that an opener follows failed", "recovery.py", "errors.Refused, errors.InUse)", "errors.Refused)", (f"{_TOLD}::test_opened_as_soon_as_it_is_restored",)),
    Mutation("told: a lease that cannot be asked after a restoration is an error before it", "recovery.py", "        with _told_as_restored(run):\n            alone = ", "        if True:\n            alone = ", (f"{_TOLD}::test_a_lease_that_cannot_be_asked_once_it_is_restored",)),
    Mutation("told: backups stay in silence", "retained.py", "except (errors.InUse, errors.NeedsAttention) as error:\n            problems.append(error)", "except (errors.InUse, errors.NeedsAttention) as error:\n            problems.extend([error] if error.retryable else [])", (f"{_RETENTION}::test_no_backup_goes_while_the_database_is_not_well",)),
    Mutation("told: memory that ran out is nobody's error", "run.py", "    except MemoryError as error:", "    except ZeroDivisionError as error:", ("tests/proof/test_limits.py::test_without_memory",)),
    Mutation("told: a quota is an I/O error", "sqlitefile.py", "        if error.errno in errors.SPACE_ERRNOS:\n            return True\n", "        pass\n", ("tests/proof/test_limits.py::test_a_quota",)),
    Mutation("told: what no thread could do is not done", "beside.py", "        if not self._done:\n            self.run()\n", "", ("tests/store/test_conversions_built.py::test_no_thread_to_be_had",)),
)  # fmt: skip

MUTATIONS = (*_LEASES, *_LOCKS, *_PROOFS, *_SITUATIONS, *_REFUSALS, *_WHAT_IS_TOLD)
