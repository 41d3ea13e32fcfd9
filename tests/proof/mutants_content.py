"""Mutations of what is verified of the content, and of what a migration may do."""

from __future__ import annotations

from tests.proof.mutants_order import skipped
from tests.proof.mutants_protocol import never
from tests.proof.mutations import Mutation

_WRONG = "tests/store/test_conversions_runs.py::test_a_wrong_copy"
_SPOILT = "tests/store/test_sqlite_files.py::test_a_wrong_copy_never_takes_its_place"
_BOTH = "tests/store/test_sqlite_with_sqlitedict.py::test_a_wrong_copy_never_takes_its_place"
_MIGRATIONS = "tests/store/test_sqlite_migrations.py"
_CHECKS = "tests/proof/test_checks_content.py"
_DICT = "engines/sqlitedict/check.py"
_SQLITE = "engines/sqlite/check.py"
_GUARD = "engines/sqlite/authorizer.py"

_SQLITEDICT = (
    Mutation("content: nothing is verified (sqlitedict)", "attempt.py", "                engine.verify(job)\n", "                pass\n", (_WRONG,)),
    never("content: the marker is not read back", _DICT, "marker_of(staging, job.staging_path) != job.marker", "tests/store/test_conversions_runs.py::test_a_wrong_marker", f"{_CHECKS}::test_a_marker_of_another_format"),
    never("content: the schema is not compared", _DICT, 'others != schema.other_objects(staging, converted, "main")', _WRONG),
    never("content: a converted table may be missing", _DICT, "not {table.name for table in schema.tables(staging)}.issuperset(names)", f"{_CHECKS}::test_a_converted_table_is_missing"),
    skipped("content: kept tables are not compared", _DICT, "kept.require_same_table(job, staging, name)", _WRONG),
    Mutation("content: converted tables are not compared", _DICT, "done += compare_table(job, staging, table.name, done)", "pass", (_WRONG,)),
    skipped("content: recoded values are not compared", _DICT, "values.compare(job, staging, name, done)", _WRONG),
    Mutation("content: keys are not compared", _DICT, 'f"{value} AND {key.expression}"', 'f"{value}"', (_WRONG,)),
    Mutation("content: copied values are not compared", _DICT, 'f"{value} AND {key.expression}"', "key.expression", (_WRONG,)),
    never("content: the structure is not checked", _DICT, "found", _WRONG, "tests/store/test_conversions_built.py"),
    never("content: rows are not counted", "engines/kept.py", "found != expected", _WRONG, f"{_CHECKS}::test_counts"),
    never("content: rows are not compared", "engines/kept.py", "same != expected", _WRONG),
    Mutation("content: types are not compared", "engines/kept.py", 'return f"typeof(a.{column}) = typeof(b.{column}) AND a.{column} IS b.{column} COLLATE BINARY"', 'return f"a.{column} IS b.{column} COLLATE BINARY"', (_SPOILT, _WRONG)),
    Mutation("content: the case of letters is not compared", "engines/kept.py", "a.{column} IS b.{column} COLLATE BINARY", "a.{column} IS b.{column}", (_SPOILT, _WRONG)),
    Mutation("content: tables without a rowid of theirs are not compared", "engines/kept.py", "        if connection.execute(query).fetchone() is not None:", "        if False:", (_SPOILT, f"{_CHECKS}::test_counts")),
    Mutation("content: collations of the application's do not matter", "engines/kept.py", "                raise _unknown(path, name, str(error)) from error", "                continue", ("tests/store/test_sqlite_files.py::test_words_of_the_application_are_refused_by_name",)),
    never("content: integrity is not checked by verify", _DICT, "findings", f"{_CHECKS}::test_verify_sees_damage"),
    Mutation("content: records are not decoded by verify", _DICT, "        for obstacle in values.undecodable(\n            run, connection, format, limit=1, tolerate_forbidden=tolerate_forbidden\n        ):", "        for obstacle in ():", ("tests/crash/test_recovery.py::test_a_changed_value_does_not_pass_for_completed",)),
    Mutation("content: dependents of a converted table are let be", "engines/sqlitedict/schema.py", "if fold(on_table) in names or word.search(text(statement)):", "if False:", ("tests/store/test_refusals_content.py::test_objects_that_depend_on_a_converted_table",)),
    Mutation("content: constraints of a converted table are lost", "engines/sqlitedict/schema.py", '        if found is not None:\n            raise errors.UnsupportedSchema(\n                f"table {name!r} has a constraint', '        if False:\n            raise errors.UnsupportedSchema(\n                f"table {name!r} has a constraint', ("tests/crash/test_findings.py::test_a_table_with_constraints_of_its_own",)),
    Mutation("content: a worker's error is not raised", "beside.py", "        if self._error is not None:\n            raise self._error\n", "        if self._error is not None:\n            return None  # type: ignore[return-value]\n", (_WRONG, "tests/store/test_conversions_built.py::test_an_fsync_that_fails_beside_the_verification")),
    Mutation("content: nobody waits for the other thread", "beside.py", "        raise\n    task.result()", "        raise", (_WRONG, "tests/store/test_conversions_built.py::test_an_fsync_that_fails_beside_the_verification")),
)  # fmt: skip

_ANY = (
    never("sqlite: the marker is not read back", _SQLITE, "marker_of(staging, job.staging_path) != job.marker", _SPOILT),
    skipped("sqlite: the header is not compared", _SQLITE, "_compare_header(job, staging, work)", _SPOILT),
    skipped("sqlite: the schema is not compared", _SQLITE, "_compare_schema(job, staging, converted)", _SPOILT),
    skipped("sqlite: tables are not compared", _SQLITE, "_compare_tables(job, staging, {schema.fold(name) for name in names}, done)", _SPOILT),
    skipped("sqlite: sequences are not compared", _SQLITE, "_compare_sequences(job, staging)", _SPOILT),
    Mutation("sqlite: sqlitedict's tables are not compared", _SQLITE, "    if work.part is not None:\n        before, after", "    if False:\n        before, after", (_BOTH,)),
    never("sqlite: a converted table may be missing", _SQLITE, "not there.issuperset(table.name for table in converted)", _BOTH, f"{_CHECKS}::test_a_converted_table_is_missing"),
    never("sqlite: the structure is not checked", _SQLITE, "found", f"{_CHECKS}::test_a_damaged_index"),
    Mutation("sqlite: one touched table exempts everything", _SQLITE, "    return folded in touched or any(", "    return bool(touched) or any(", (f"{_MIGRATIONS}::test_what_no_migration_has_touched_is_compared",)),
    Mutation("sqlite: an altered table exempts the schema", _SQLITE, 'if job.notes.get("altered") and repr(is_) in job.notes["schema"]:', 'if job.notes.get("altered"):', (f"{_MIGRATIONS}::test_what_alter_has_rewritten_is_compared_with_what_it_left", f"{_CHECKS}::test_altered_tables_exempt_no_others")),
    Mutation("sqlite: integrity is not checked by verify", _SQLITE, "            sqlitedict.require_integrity(connection, path)\n", "            pass\n", (f"{_CHECKS}::test_verify_sees_damage",)),
)  # fmt: skip

_MIGRATION = (
    Mutation("migration: the authorizer allows everything", _GUARD, "        if why is None:\n            return sqlite3.SQLITE_OK", "        if True:\n            return sqlite3.SQLITE_OK", (f"{_MIGRATIONS}::test_what_a_migration_may_not",)),
    Mutation("migration: the authorizer is not asked", _GUARD, "connection.set_authorizer(self)", "pass", (f"{_MIGRATIONS}::test_what_a_migration_may_not",)),
    never("migration: sqlitedict's tables are not protected", _GUARD, "folded in self._protected", "tests/store/test_sqlite_with_sqlitedict.py::test_migrations_leave_the_records_alone", f"{_MIGRATIONS}::test_the_name_of_the_marker"),
    never("migration: checks may change the database", _GUARD, "self._reading", f"{_MIGRATIONS}::test_a_check_that_is_not_true"),
    Mutation("migration: any module's virtual tables", _GUARD, "if action == sqlite3.SQLITE_CREATE_VTABLE and fold(second) not in _MODULES:", "if False:", (f"{_MIGRATIONS}::test_what_a_migration_may_not",)),
    skipped("migration: foreign keys are not checked", "engines/sqlite/running.py", "_require_foreign_keys(job, staging, step, guard.touched)", f"{_CHECKS}::test_rows_that_refer_to_nothing"),
    skipped("migration: its checks are not asked", "engines/sqlite/running.py", "_require_checks(job, staging, step)", f"{_MIGRATIONS}::test_a_check_that_is_not_true"),
    skipped("migration: nothing of it is committed", "engines/sqlite/running.py", 'staging.execute("COMMIT")', f"{_MIGRATIONS}::test_run_in_their_order"),
    Mutation("migration: the marker's name is anybody's", "engines/sqlite/build.py", "    if what:\n        raise", "    if False:\n        raise", (f"{_MIGRATIONS}::test_the_name_of_the_marker", "tests/store/test_sqlite_with_sqlitedict.py::test_migrations_leave_the_records_alone")),
    Mutation("migration: schema text is trusted", "sqlitefile.py", "PRAGMA trusted_schema=OFF", "PRAGMA trusted_schema=ON", (f"{_CHECKS}::test_schema_text_is_not_trusted",)),
)  # fmt: skip

MUTATIONS = (*_SQLITEDICT, *_ANY, *_MIGRATION)
