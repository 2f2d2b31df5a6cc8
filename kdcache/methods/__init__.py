"""The catalogue of distillation methods: to add one, write its class and name it here."""

from kdcache.methods.base import Method
from kdcache.methods.response import Logits, Plain, SoftTarget

METHODS: dict[str, type[Method]] = {"none": Plain, "st": SoftTarget, "logits": Logits}
