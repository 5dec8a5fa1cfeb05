"""The generator process, on a core of its own: makes ready before the clock what it then only sends and counts.

Told line by line: {"do": "add", "name", "kind", …}, {"do": "prepare" | "run", "name", "seconds"}, {"do": "facts"}.
"""

from __future__ import annotations

from typing import Any

from bench.children import BenchFailed, config_from_stdin, requests, say
from bench.sides import Echo, Intake, Mqtt, Side


class Generator:
    def __init__(self) -> None:
        self._sides: dict[str, Side] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "add":
                self._sides[request["name"]] = self._made(request)
                return {}
            case "prepare":
                self._sides[request["name"]].prepare(request["seconds"])
                return {}
            case "run":
                return self._sides[request["name"]].run(request["seconds"]).as_json()
            case _:
                return {name: side.facts() for name, side in self._sides.items()}

    def _made(self, config: dict[str, Any]) -> Side:
        match config["kind"]:
            case "intake":
                return Intake(config)
            case "mqtt":
                return Mqtt(config)
            case _:
                intake = self._sides[config["of"]]
                assert isinstance(intake, Intake)
                return Echo(config, intake)

    def close(self) -> None:
        for side in self._sides.values():
            side.close()


def main() -> None:
    config_from_stdin()
    generator = Generator()
    try:
        for request in requests():
            try:
                say(**generator.answer(request))
            except (BenchFailed, OSError) as error:
                say(error=str(error))
    finally:
        generator.close()


if __name__ == "__main__":
    main()
