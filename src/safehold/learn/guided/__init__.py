"""Learning under the guidance of a policy that is safe already: SaGui (arXiv 2307.14316)."""
