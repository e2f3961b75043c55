"""What happened, who did it and from where: written with the change, and chained against alteration."""
