"""``bezoar list``."""


def listing() -> None:
    """List the data sets, networks, attacks, repairs, guards, triggers, scans and recipes.

    Example: bezoar list
    """
    from bezoar import data, models, recipes
    from bezoar.attacks import ATTACKS
    from bezoar.guards import GUARDS
    from bezoar.repairs import REPAIRS
    from bezoar.scans import DATA_SCANS, MODEL_SCANS
    from bezoar.triggers import TRIGGERS

    def settings(kind: type) -> str:
        made = kind()
        names = recipes.settable(kind)
        return ", ".join(f"{name}={getattr(made, name)!r}" for name in names)

    print("data sets")
    for name, source in data.SOURCES.items():
        print(f"  {name:14} {source.about}")
    for name, about in data.PREFIXES.items():
        print(f"  {name:14} {about}")
    print("networks")
    for name, kind in models.MODELS.items():
        print(f"  {name:14} {(kind.__doc__ or '').splitlines()[0]}")
        if own := recipes.of_network(name):
            print(f"  {'':14} {', '.join(f'{key}={value!r}' for key, value in own.items())}")
    for title, table in (
        ("attacks", ATTACKS),
        ("repairs", REPAIRS),
        ("guards", GUARDS),
        ("triggers", TRIGGERS),
        ("scans of models", MODEL_SCANS),
        ("scans of data", DATA_SCANS),
    ):
        print(title)
        for name, method in table.items():
            print(f"  {name:14} {(method.__doc__ or '').splitlines()[0]}")
            print(f"  {'':14} {settings(method)}")
    print("recipes")
    for path in sorted(recipes.folder().glob("*.toml")):
        print(f"  {path.stem:14} {path}")
