"""The verb `study`, top to bottom."""

import sys
from collections.abc import Sequence

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.paths import AnyPath
from cartesian_moe_jax.study.record import read_records, require_setting, write_record
from cartesian_moe_jax.study.report import require_report_packages, write_report
from cartesian_moe_jax.study.runner import Stopped, Study
from cartesian_moe_jax.study.variants import reference_of


def run_study(
    config: Config, workdir: AnyPath, merged: Sequence[AnyPath] = (), *, report_only: bool = False
) -> None:
    """Make the records of a study that are not there yet, and write its report.

    The records of the studies in ``merged`` are taken in. Raises UserError for wrong input, and
    KeyboardInterrupt when a signal stopped it: the same call continues.
    """
    require_report_packages()
    study = Study(config, workdir, _say)
    for folder in merged:
        _take_in(study, folder)
    try:
        if not report_only:
            _say(study.widths())
            study.run(after_each_seed=lambda: _report(study))
    except Stopped as stopped:
        raise KeyboardInterrupt from stopped
    _report(study)
    _say(f"report      {workdir / 'report.md'}\nas a page   {workdir / 'report.html'}")


def _report(study: Study) -> None:
    """Write the report of all records there are."""
    write_report(study.workdir, study.records(), reference_of(study.config.study), study.about())


def _take_in(study: Study, folder: AnyPath) -> None:
    records = read_records(folder / "records")
    require_setting(records, study.setting, str(folder))
    there = {record.name for record in study.records() if not record.failed}
    for record in records:
        if record.name not in there:
            write_record(study.record_folder, record)
    _say(f"{len(records)} records taken in from {folder}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
