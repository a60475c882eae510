"""The verb `study`, top to bottom."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cartesian_moe_jax.config import Config, StudyConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath
from cartesian_moe_jax.study.about import about_of
from cartesian_moe_jax.study.record import RECORDS, read_records, require_setting, write_record
from cartesian_moe_jax.study.report import require_report_packages, write_report
from cartesian_moe_jax.study.runner import Stopped, Study
from cartesian_moe_jax.study.variants import bases_of


def run_study(
    config: Config, workdir: AnyPath, merged: Sequence[AnyPath] = (), *, report_only: bool = False
) -> None:
    """Make the records of a study that are not there yet, and write its report.

    The records of the studies in ``merged`` are taken in. ``report_only`` takes them as they are:
    of ``config`` it reads what the report is to compare, and no text. Raises UserError for wrong
    input, and KeyboardInterrupt when a signal stopped it: the same call continues.
    """
    require_report_packages()
    if report_only:
        _report_records(config.study, workdir, merged)
    else:
        _make_records(Study(config, workdir, _say), merged)
    _say(f"report      {workdir / 'report.md'}\nas a page   {workdir / 'report.html'}")


def _make_records(study: Study, merged: Sequence[AnyPath]) -> None:
    for folder in merged:
        _take_in(study.record_folder, study.setting, folder)

    def report() -> None:
        _report(study.config.study, study.workdir, study.about())

    try:
        _say(study.widths())
        study.run(after_each_seed=report)
    except Stopped as stopped:
        raise KeyboardInterrupt from stopped
    report()


def _report_records(study: StudyConfig, workdir: AnyPath, merged: Sequence[AnyPath]) -> None:
    """Report what lies in the folders, all of one setting."""
    folders = [workdir, *merged]
    found = [record for folder in folders for record in read_records(folder / RECORDS)]
    if not found:
        raise UserError(f"{workdir / RECORDS} has no records: there is nothing to report")
    setting = found[0].setting
    require_setting(found[1:], setting, "--report_only")
    for folder in merged:
        _take_in(workdir / RECORDS, setting, folder)
    _report(study, workdir, about_of(setting))


def _report(study: StudyConfig, workdir: AnyPath, about: Mapping[str, str]) -> None:
    """Write the report of all records there are."""
    write_report(workdir, read_records(workdir / RECORDS), bases_of(study), about)


def _take_in(there: AnyPath, setting: Mapping[str, Any], folder: AnyPath) -> None:
    records = read_records(folder / RECORDS)
    require_setting(records, setting, str(folder))
    known = {record.name for record in read_records(there) if not record.failed}
    for record in records:
        if record.name not in known:
            write_record(there, record)
    _say(f"{len(records)} records taken in from {folder}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
