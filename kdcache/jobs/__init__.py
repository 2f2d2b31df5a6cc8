"""Where strings become objects: what the commands, the Python face and the recipes all call."""

from kdcache.on_demand import on_demand

__getattr__, __dir__ = on_demand(  # so that training a student does not load what makes a cache
    __name__,
    {
        "accuracy": "facts_of",
        "auditing": "audit",
        "beside": "helpers",
        "catalogue": "overview rows_of tables",
        "checkup": "check_model",
        "content": "MISSING images_of",
        "data": "DEFAULT_DATA Data opening",
        "dump": "DumpOptions dump_options dump_pseudo make_dump",
        "estimates": "answering_rate file_bytes plan rendering_rate training_rate",
        "imports": "import_logits",
        "inspection": "evaluate show verify",
        "like": "LIKE Like parse_like stand_in",
        "loading": "library_note load_teacher normalisation teacher_folder",
        "machine": "choose_device require_place workers_for",
        "memory": "training_memory",
        "packs": "facts_of_pack make_pack verify_pack",
        "pruning": "prune",
        "reporting": "report",
        "pseudo": "pseudo_from_text pseudo_teacher schedule_note",
        "student": "Student asking default_student folder_of train_student",
        "taught": "live_teacher named_teacher named_teachers open_data taught_by",
        "teacher": "SMOOTHING train_teacher",
        "together": "students_of train_students",
        "tuning": "Search open_study run_trials study_folder summary",
    },
)
