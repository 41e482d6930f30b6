"""The whole picture of a victim: how often it is right about clean clips, about corrupted ones and
under attack, and where and when it is sensitive.

`vidmarl.audit` is the function; what is in here is imported as
`from vidmarl.audit.corruptions import ...`.
"""

from vidmarl.audit.result import AuditResult
from vidmarl.audit.run import audit

__all__ = ["AuditResult", "audit"]
