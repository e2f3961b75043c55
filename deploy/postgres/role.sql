-- Run by the superuser when the volume is empty: Duly's role owns one database, and may nothing else.
CREATE ROLE duly LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
CREATE DATABASE duly OWNER duly;
REVOKE ALL ON DATABASE duly, postgres, template1 FROM PUBLIC;
