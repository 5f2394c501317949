"""Trials of an Optuna study, which ``train --trial-id`` goes back to."""

from pathlib import Path


def chosen_trial(storage: str | None, study_name: str | None, number: int) -> int:
    """
    :param storage: what ``--storage`` says
    :param study_name: what ``--study-name`` says
    :param number: what ``--trial-id`` says
    :return: index by which RL-Zoo finds the trial: it takes 0 for no trial at all, so that the first is counted from the end
    :raises ValueError: a study is not named, or there is none; it has no such trial, or one without settings
    """
    for option, value in (("--storage", storage), ("--study-name", study_name)):
        if not value:
            raise ValueError(
                f"--trial-id {number} is a trial of the study in --storage called --study-name, found no {option}"
            )
    import optuna
    from optuna.storages.journal import JournalFileBackend

    assert storage is not None and study_name is not None
    # Optuna would begin an empty study where there is no file.
    file = storage if storage.endswith(".log") else storage.removeprefix("sqlite:///") if "sqlite:///" in storage else None
    if file is not None and not Path(file).is_file():
        raise ValueError(f"--storage must hold a study, found no file {file}")
    try:
        backend = JournalFileBackend(storage) if storage.endswith(".log") else None
        opened = storage if backend is None else optuna.storages.JournalStorage(backend)
        names = optuna.get_all_study_names(opened)
        trials = optuna.load_study(storage=opened, study_name=study_name).trials if study_name in names else []
    except Exception as error:  # of whichever database it is
        raise ValueError(f"--storage {storage} cannot be read: {' '.join(str(error).split())}") from error
    if study_name not in names:
        raise ValueError(f"--study-name {study_name!r} is no study of {storage}, found {', '.join(names) or 'none'}")
    if not 0 <= number < len(trials):
        raise ValueError(
            f"--trial-id must be one of the {len(trials)} trials of {study_name!r}, counted from 0, found {number}"
        )
    if not trials[number].params:
        raise ValueError(f"--trial-id {number} has no settings: the trial is {trials[number].state.name.lower()}")
    return number or -len(trials)
